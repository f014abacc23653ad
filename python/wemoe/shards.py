"""Writing tensors as safetensors files of a largest size: no more than one file's tensors are gathered at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor


class Stored(NamedTuple):
    """A tensor that is to be written: its size in bytes, and a function that gives it, called once."""

    nbytes: int
    read: Callable[[], Tensor]


def write_shards(tensors: Mapping[str, Stored], folder: Path, pattern: str, max_shard_size: int | str = "5GB") -> None:
    """Write tensors as one file, or as several and an index.

    Args:
        tensors: by name.
        folder: where to write.
        pattern: names of the files, with `{suffix}` in it.
        max_shard_size: largest size of a file, in bytes or like `"5GB"`; a larger tensor has a file of its own.

    Raises:
        ValueError: `max_shard_size` is no size.
    """
    split = _split({name: stored.nbytes for name, stored in tensors.items()}, pattern, max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file(_apart({name: tensors[name].read() for name in names}), folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{pattern.format(suffix='')}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def largest_file(sizes: Mapping[str, int], max_shard_size: int | str = "5GB") -> int:
    """Return the bytes of the largest file that `write_shards` makes of tensors of given sizes in bytes.

    Raises:
        ValueError: `max_shard_size` is no size.
    """
    split = _split(sizes, "{suffix}", max_shard_size)
    return max((sum(sizes[name] for name in names) for names in split.filename_to_tensors.values()), default=0)


def _split(sizes: Mapping[str, int], pattern: str, max_shard_size: int | str) -> StateDictSplit:
    hollow = {name: torch.empty(size, dtype=torch.uint8, device="meta") for name, size in sizes.items()}
    try:
        return split_torch_state_dict_into_shards(hollow, filename_pattern=pattern, max_shard_size=max_shard_size)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"max_shard_size must be a number of bytes, or one with a unit like '5GB'; found {max_shard_size!r}"
        ) from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make tensors contiguous, and copy those whose memory is another one's too, which the format does not know."""
    seen: set[tuple[torch.device, int]] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        contiguous = tensor.detach().contiguous()
        memory = contiguous.device, contiguous.untyped_storage().data_ptr()
        apart[name] = contiguous.clone() if memory in seen else contiguous
        seen.add(memory)
    return apart
