"""Writing a merged model as a plain Hugging Face folder, tensor by tensor as they are merged, whole or not at all.

The folder holds `model*.safetensors`, the base's `config.json`, its tokenizer, preprocessor and generation files, a
model card, and `heads.safetensors` where experts have heads of their own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wemoe.config import check_dtype
from wemoe.files import check_writable, replacing_files
from wemoe.heads import HEADS_FILE, write_heads
from wemoe.merged_card import merged_card_text
from wemoe.merging.rules import Rule, Sources, fill
from wemoe.model_card import CARD_FILE, may_write_card
from wemoe.provenance import provenance_of
from wemoe.repositories import GENERATION_FILE
from wemoe.saving import WEIGHTS_GLOB as ROUTED_WEIGHTS_GLOB
from wemoe.shards import Stored, write_shards
from wemoe.stored_weights import SHARDS, skeleton_of_config
from wemoe.towers import Tower
from wemoe.weights import module_weights

WEIGHTS_GLOB = "model*.safetensors*"
STALE = (ROUTED_WEIGHTS_GLOB, WEIGHTS_GLOB, HEADS_FILE, GENERATION_FILE)  # of an earlier model in the same folder
CARRIED = (  # what a base's folder holds beside weights and configuration that a merged model needs too
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "bpe.codes",
    "chat_template*",
    "*processor_config.json",
)


def write_merged(
    output: str | os.PathLike[str],
    sources: Sources,
    rule: Rule,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> None:
    """Merge models into a folder that plain transformers loads.

    No more than one file's tensors are in memory at a time, beside what the rule holds. A new folder appears whole;
    in one that is there, files are replaced when all of the new ones are written. Whatever fails before that, an
    interrupt or a full disk too, leaves the output as it was.

    Args:
        output: the folder.
        sources: base and experts.
        rule: gives each merged tensor by name, as the rules of `wemoe.merging.RULES` do.
        dtype: of floating-point tensors; the base's own by default.
        max_shard_size: largest size of a weight file, in bytes or like `"5GB"`.
        recipe: the configuration of the merge, for the model card; its `merge_method` is the method's name.
        metrics: numbers by name for the model card, perhaps one level inside the other.
        progress: whether to show a progress bar, of bytes that are merged.

    Raises:
        OSError: the folder cannot be written.
        ValueError: base and experts do not fit, the output is one of their folders, a tensor holds NaN or infinity or
            numbers beyond the range of float16, or an option is out of its range.
    """
    check_dtype("dtype", dtype)
    sources.check()
    target = Path(output)
    check_apart(target, sources)
    check_writable(os.path.dirname(os.path.abspath(target)))
    config = _config(sources, dtype)
    tensors, dropped = _tensors(sources, rule, dtype, config)
    left_out = dict(sources.matching.left_out)
    if dropped:
        left_out[sources.base.label] = (*left_out.get(sources.base.label, ()), *dropped)
    heads = sources.heads()
    writes_card = may_write_card(target)
    with replacing_files(target, stale=STALE) as staging:
        total = sum(stored.nbytes for stored in tensors.values())
        with torch.no_grad(), tqdm(total=total, desc="merge", unit="B", unit_scale=True, disable=not progress) as bar:
            shown = {name: Stored(stored.nbytes, partial(_shown, stored, bar)) for name, stored in tensors.items()}
            write_shards(shown, staging, SHARDS, max_shard_size)
        if heads:
            write_heads(heads, staging)
        if config is not None:
            (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        carry_over(sources.base.folder, staging, CARRIED if sources.matching.prefix else (*CARRIED, GENERATION_FILE))
        if writes_card:
            model_class = config["architectures"][0] if config is not None else None
            provenance = provenance_of(sources.base, sources.experts)
            text = merged_card_text(model_class, provenance, recipe, metrics, heads, left_out)
            (staging / CARD_FILE).write_text(text, encoding="utf-8")


def check_apart(target: Path, sources: Sources) -> None:
    """Check that an output folder is none of those that are merged.

    Raises:
        ValueError: it is.
    """
    for weights in (sources.base, *sources.experts.values()):
        if weights.folder is not None and target.exists() and target.samefile(weights.folder):
            raise ValueError(f"output must be a folder of its own; found that of {weights.label}, {str(target)!r}")


def _config(sources: Sources, dtype: torch.dtype | None) -> dict[str, Any] | None:
    """Return the merged model's configuration: the base's, with the class that it has now; None where it has none."""
    architecture, folder = sources.base.architecture, sources.base.folder
    if architecture is None or architecture.model_class is None:
        return None
    config = dict(architecture.config)
    if folder is not None and not isinstance(sources.base, Tower):  # whose own configuration is a part of that file
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("_name_or_path", "torch_dtype"):
        config.pop(key, None)
    floating = next((sources.hollow(name).dtype for name in sources.names), torch.float32)
    config["dtype"] = str(dtype or floating).removeprefix("torch.")
    config["architectures"] = [architecture.backbone_class if sources.matching.prefix else architecture.model_class]
    return config


def _tensors(
    sources: Sources, rule: Rule, dtype: torch.dtype | None, config: dict[str, Any] | None
) -> tuple[dict[str, Stored], list[str]]:
    """Return what is to be written, by name, and the base's names of what the merged model's class does not have."""
    known = _known_names(config)
    merged = frozenset(sources.names)
    tensors: dict[str, Stored] = {}
    dropped = []
    for name, own in sources.matching.base.items():
        if known is not None and name not in known:
            dropped.append(own)
            continue
        hollow = sources.base.contents[own]
        kept = dtype if dtype is not None and hollow.is_floating_point() else hollow.dtype
        size = hollow.numel() * kept.itemsize
        make = partial(_merged, sources, rule, name, kept) if name in merged else partial(_base, sources, own, kept)
        tensors[name] = Stored(size, make)
    return tensors, dropped


def _known_names(config: dict[str, Any] | None) -> set[str] | None:
    skeleton = None if config is None else skeleton_of_config(config)
    if skeleton is None:
        return None
    weights = module_weights(skeleton, "merged model")
    return {*weights.contents, *weights.aliases}


def _merged(sources: Sources, rule: Rule, name: str, dtype: torch.dtype) -> Tensor:
    out = torch.empty(sources.hollow(name).shape, dtype=dtype, device=sources.device_of(name))
    fill(rule, name, out)
    return out.cpu()


def _base(sources: Sources, own: str, dtype: torch.dtype) -> Tensor:
    return sources.base.read(own).cpu().to(dtype)


def _shown(stored: Stored, bar: tqdm) -> Tensor:
    tensor = stored.read()
    bar.update(stored.nbytes)
    return tensor


def carry_over(folder: Path | None, staging: Path, patterns: Sequence[str] = CARRIED) -> None:
    """Copy a base's tokenizer and preprocessor files, or what other patterns name; nothing where there is no folder."""
    if folder is None:
        return
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        if file.is_file():
            shutil.copyfile(file, staging / file.name)
        elif file.is_dir():
            shutil.copytree(file, staging / file.name)
