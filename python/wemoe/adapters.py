"""LoRA adapters as experts: merged into a model of their base by peft, one at a time, and kept on disk until read.

So T adapters take memory for one model, and disk for T of them in the system's temporary folder. What an adapter saved
whole (`modules_to_save`, a classifier say) is that task's head.
"""

from __future__ import annotations

import copy
import importlib
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from wemoe.provenance import public_name
from wemoe.safe_tensors import StoredTensors
from wemoe.shards import Stored, write_shards
from wemoe.stored_weights import ADAPTER_FILE, SHARDS, StoredWeights, find_folder, skeleton_in, weight_files
from wemoe.weights import Weights, module_weights

ADAPTER_WEIGHTS = "adapter_model.safetensors"
SAVED = "base_model.model."  # what peft puts before a model's own names
CLASSES = {  # by peft's name of a task
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}


@contextmanager
def open_adapter(folder: Path, base: nn.Module | Path | str | None, label: str) -> Iterator[Weights]:
    """Merge an adapter into a model of its base, and open the weights of what comes out.

    Args:
        folder: of the adapter.
        base: the model that it belongs to, untouched: a module, or a folder or repository; None for the one that the
            adapter names.
        label: of the argument, for messages.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: peft is not installed.
        ValueError: the adapter is for another architecture, or a file is damaged.
    """
    described = _read(folder / ADAPTER_FILE, label)
    files = [folder / ADAPTER_WEIGHTS]
    if not files[0].is_file():
        raise FileNotFoundError(f"{label} must hold {ADAPTER_WEIGHTS!r}; found no such file in {str(folder)!r}")
    with StoredTensors(files) as stored:
        saved = {name.removeprefix(SAVED): t for name, t in stored.contents.items() if ".lora_" not in name}
    source = described["base_model_name_or_path"] if base is None else base
    with tempfile.TemporaryDirectory(prefix="wemoe-adapter-") as temporary:
        merged = Path(temporary)
        _write_merged(folder, source, described, {n: tuple(t.shape) for n, t in saved.items()}, merged, label)
        with StoredTensors(weight_files(merged, label)) as tensors:
            weights = StoredWeights(label, tensors, merged, skeleton_in(merged))
            weights.notes += _other_base(described, source, label)
            yield weights


def _read(file: Path, label: str) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = described["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} must describe an adapter; found: {error}") from error
    if kind != "LORA":
        raise ValueError(f"{label} must be a LoRA adapter; found {kind!r} in {str(file)!r}")
    return described


def _write_merged(
    folder: Path,
    source: nn.Module | Path | str | None,
    described: dict[str, Any],
    saved: dict[str, tuple[int, ...]],
    merged: Path,
    label: str,
) -> None:
    """Write the model that adapter and base make together, in the base's dtype, but for what neither of them has."""
    peft = _import_peft()
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heads that are random until the adapter's own take their place
        model, made_up = _model_for(source, described, saved, label)
        try:
            tuned = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{label} must be an adapter for {_name_of(source)!r}; found: {error}") from error
    state = module_weights(tuned, label).contents
    kept = {name: tensor for name, tensor in state.items() if name in saved or name not in made_up}
    write_shards({name: Stored(t.nbytes, partial(kept.__getitem__, name)) for name, t in kept.items()}, merged, SHARDS)
    config = copy.deepcopy(tuned.config)
    config.architectures = [type(tuned).__name__]
    config.save_pretrained(merged)


def _model_for(
    source: nn.Module | Path | str | None, described: dict[str, Any], saved: dict[str, tuple[int, ...]], label: str
) -> tuple[PreTrainedModel, set[str]]:
    """Make the model that an adapter was trained on; also return the names of what the base does not give it."""
    if isinstance(source, nn.Module):
        return _model_around(source, described, saved, label)
    if source is None:
        raise ValueError(f"{label} must name its base model in {ADAPTER_FILE!r}; found none")
    folder = find_folder(source, f"the base of {label}")
    weight_files(folder, f"the base of {label}")
    options = _head_options(described, saved)
    name = CLASSES.get(described.get("task_type") or "") or type(skeleton_in(folder)).__name__
    kind = getattr(transformers, name, transformers.AutoModel)
    model, report = kind.from_pretrained(folder, dtype="auto", output_loading_info=True, **options)
    return model, set(report["missing_keys"])


def _model_around(
    base: nn.Module, described: dict[str, Any], saved: dict[str, tuple[int, ...]], label: str
) -> tuple[PreTrainedModel, set[str]]:
    """Put a copy of a model's backbone into the class that an adapter was trained on."""
    if not isinstance(base, PreTrainedModel):
        raise ValueError(f"{label} is an adapter: base_model must be a Hugging Face model; found {type(base).__name__}")
    name = CLASSES.get(described.get("task_type") or "")
    if name is None:
        return copy.deepcopy(base), set()
    config = copy.deepcopy(base.config)
    for option, value in _head_options(described, saved).items():
        setattr(config, option, value)
    model: PreTrainedModel = getattr(transformers, name).from_config(config, dtype=base.dtype).to(base.device)
    wanted, own = set(model.state_dict()), type(model) is type(base)
    part, given = (model, base) if own else (model.base_model, base.base_model)
    part.load_state_dict(given.state_dict(), strict=False)
    prefix = "" if part is model else f"{model.base_model_prefix}."
    return model, wanted - {f"{prefix}{name}" for name in given.state_dict()}


def _head_options(described: dict[str, Any], saved: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return how many classes a classifier has, by the shape of its last map [C, D]."""
    maps = [shape for name, shape in saved.items() if len(shape) == 2 and name.endswith("weight")]
    return {"num_labels": maps[-1][0]} if maps and described.get("task_type") in ("SEQ_CLS", "TOKEN_CLS") else {}


def _other_base(described: dict[str, Any], source: nn.Module | Path | str | None, label: str) -> tuple[str, ...]:
    wanted, found = (public_name(name) for name in (described.get("base_model_name_or_path"), _name_of(source)))
    if wanted is None or found is None or wanted.rpartition("/")[2] == found.rpartition("/")[2]:
        return ()
    return (f"{label} is an adapter that was made for {wanted!r}; it is merged into {found!r}",)


def _name_of(source: nn.Module | Path | str | None) -> str | None:
    if isinstance(source, nn.Module):
        return getattr(getattr(source, "config", None), "_name_or_path", None)
    return None if source is None else str(source)


def _import_peft() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its imports warn
            return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError("a LoRA adapter needs peft: pip install peft") from error
