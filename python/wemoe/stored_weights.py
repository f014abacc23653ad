"""Weights in a checkpoint's folder: safetensors files, read without the model that they belong to.

What the files cannot tell, a skeleton of the model does: which names are one tensor, which tensors are buffers, and
what a tensor that an earlier version of transformers named otherwise is called today.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from wemoe.provenance import public_name
from wemoe.repositories import converted_revision, locate
from wemoe.safe_tensors import StoredTensors
from wemoe.skeletons import without_weights
from wemoe.weights import Rows, Weights, architecture_of, module_weights

WEIGHTS_FILE = "model.safetensors"
SHARDS = "model{suffix}.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
ADAPTER_FILE = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DOWNLOADS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class StoredWeights(Weights):
    """Weights in safetensors files; every read is one of the disk."""

    def __init__(
        self, label: str, tensors: StoredTensors, folder: Path | None, skeleton: PreTrainedModel | None
    ) -> None:
        places = _today(tensors, skeleton)
        known = None if skeleton is None else module_weights(skeleton, label)
        aliases = {} if known is None else _ties(tensors, places, known)
        names = {name: place for name, place in places.items() if name not in aliases}
        order = () if known is None else tuple(known.contents)
        names = {name: names[name] for name in (*(name for name in order if name in names), *names)}
        contents = {name: tensors.contents[place] for name, place in names.items()}
        super().__init__(
            label,
            contents,
            aliases,
            [name for name, tensor in contents.items() if _is_parameter(name, tensor, known)],
            None if skeleton is None else architecture_of(skeleton),
            folder,
        )
        if known is not None:
            self.unknown = frozenset(contents) - known.contents.keys() - known.aliases.keys()
        self._tensors = tensors
        self._places = names

    def read(self, name: str, rows: Rows = ...) -> Tensor:
        """Read a tensor, or some of its rows, into memory of its own."""
        place = self._places[name]
        if isinstance(rows, slice):
            return self._tensors.read_rows(place, rows)
        return self._tensors.read(place, self.contents[name].dtype, torch.device("cpu"))


@contextmanager
def open_stored(source: str | os.PathLike[str], label: str, base: nn.Module | Path | None = None) -> Iterator[Weights]:
    """Open the weights of a folder, a repository of the Hub, one safetensors file, or a LoRA adapter.

    Raises:
        FileNotFoundError, ImportError, ValueError: as in `wemoe.weights.open_weights`.
    """
    model, plus, adapter = str(source).partition("+")
    is_pair = bool(plus) and not Path(source).exists()
    path = find_folder(adapter if is_pair else source, label)
    if (path / ADAPTER_FILE).is_file():
        from wemoe.adapters import open_adapter  # it needs what is here

        with open_adapter(path, model if is_pair else base, label) as weights:
            weights.name = public_name(adapter if is_pair else str(source))
            yield weights
        return
    if is_pair:
        raise FileNotFoundError(f"{label} must hold {ADAPTER_FILE!r} after the '+'; found none in {str(path)!r}")
    with StoredTensors(weight_files(path, label)) as tensors:
        folder = path if path.is_dir() else None
        weights = StoredWeights(label, tensors, folder, None if folder is None else skeleton_in(folder))
        weights.name = public_name(str(source))
        yield weights


def find_folder(source: str | os.PathLike[str], label: str) -> Path:
    """Return where a checkpoint is on this machine, downloaded if it is a repository of the Hub.

    Of a repository that has no safetensors, what the Hub's converter has made of it is taken.

    Raises:
        FileNotFoundError: there is none.
    """
    path = locate(source, DOWNLOADS, revision=None, token=None, local_files_only=False)
    if path.is_dir() and not any(path.glob("*.safetensors")) and (revision := converted_revision(source)) is not None:
        path = locate(source, DOWNLOADS, revision=revision, token=None, local_files_only=False)
    if not path.exists():
        raise FileNotFoundError(f"{label} must be a folder or a repository of the Hub; found neither at {str(path)!r}")
    return path


def weight_files(path: Path, label: str) -> list[Path]:
    """Find the safetensors files of a checkpoint.

    Raises:
        FileNotFoundError: there are none, or one that the index names is missing.
        ValueError: the weights are a pickle or a routed model's, or the index is damaged.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(_refusal(path, path, label))
        return [path]
    if (path / INDEX_FILE).is_file():
        return _shards(path, label)
    if (path / WEIGHTS_FILE).is_file():
        return [path / WEIGHTS_FILE]
    pickles = sorted(file for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise ValueError(_refusal(path, pickles[0], label))
    if any(path.glob("wemoe*.safetensors")):
        raise ValueError(f"{label} must be a plain model; found a routed one in {str(path)!r}")
    raise FileNotFoundError(f"{label} must hold {WEIGHTS_FILE!r} or {INDEX_FILE!r}; found neither in {str(path)!r}")


def skeleton_in(folder: Path) -> PreTrainedModel | None:
    """Make the model of a folder's configuration without its weights; None where transformers has no such class."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        return skeleton_of_config(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{str(file)!r} must be a model's configuration; found: {error}") from error


def skeleton_of_config(config: Mapping[str, Any]) -> PreTrainedModel | None:
    """Make the model of a configuration without its weights; None where transformers has no such class.

    Raises:
        ValueError: it is no configuration.
    """
    names = config.get("architectures") or []
    kind = getattr(transformers, names[0], None) if names else None
    if kind is None or not issubclass(kind, PreTrainedModel):
        return None
    with without_weights():
        model: PreTrainedModel = kind(AutoConfig.for_model(**config))
    model.tie_weights()
    return model


def _shards(folder: Path, label: str) -> list[Path]:
    file = folder / INDEX_FILE
    try:
        places: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({folder / name for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(file)!r} must hold file names by tensor under 'weight_map'; found: {error}") from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{label} must hold every file that {INDEX_FILE!r} names; missing in {str(folder)!r}: {', '.join(missing)}"
        )
    return shards


def _refusal(path: Path, pickle: Path, label: str) -> str:
    """Say why a pickle is not read, and the command that makes safetensors of it."""
    if path.is_dir():
        target = path.with_name(f"{path.name}-safetensors")
        convert = f"import transformers as t; t.{_class_name(path)}.from_pretrained({str(path)!r})"
        convert += f".save_pretrained({str(target)!r})"
    else:
        target = path.with_suffix(".safetensors")
        convert = "import torch, safetensors.torch as s; "
        convert += f"s.save_file(torch.load({str(path)!r}, weights_only=True), {str(target)!r})"
    return (
        f"{label} must be safetensors, since a pickle can run code; found {str(pickle)!r}. "
        f'To convert it, if you trust it: python -c "{convert}"'
    )


def _class_name(folder: Path) -> str:
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError):
        return "AutoModel"
    return name if hasattr(transformers, name) else "AutoModel"


def _today(tensors: StoredTensors, skeleton: PreTrainedModel | None) -> dict[str, str]:
    """Return stored names by the names that today's transformers has for them."""
    stored = list(tensors.contents)
    if skeleton is None:
        return {name: name for name in stored}
    renamings = [r for r in get_model_conversion_mapping(skeleton) if isinstance(r, WeightRenaming)]
    today: dict[str, str] = {}
    for name in stored:
        renamed = name
        for renaming in renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        today[renamed] = name
    return today if len(today) == len(stored) else {name: name for name in stored}


def _ties(tensors: StoredTensors, places: dict[str, str], known: Weights) -> dict[str, str]:
    """Find which names are one tensor, and let `places` have it under its first name.

    A file may hold a tied tensor twice; two that differ are two, whatever the configuration says.
    """
    aliases = dict(known.aliases)
    for other, first in known.aliases.items():
        if other not in places:
            continue
        if first not in places:
            places[first] = places.pop(other)
        elif not _are_equal(tensors, places[first], places[other]):
            del aliases[other]
    return {other: first for other, first in aliases.items() if first in places}


def _are_equal(tensors: StoredTensors, first: str, second: str) -> bool:
    hollow = tensors.contents[first]
    if hollow.shape != tensors.contents[second].shape or hollow.dtype != tensors.contents[second].dtype:
        return False
    cpu = torch.device("cpu")
    return torch.equal(tensors.read(first, hollow.dtype, cpu), tensors.read(second, hollow.dtype, cpu))


def _is_parameter(name: str, tensor: Tensor, known: Weights | None) -> bool:
    if known is not None and name in known.contents:
        return name in known.parameters
    return tensor.is_floating_point()
