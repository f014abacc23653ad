"""Plain models from folders or repositories of the Hub: loaded strictly, and taken apart into backbone and head."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from wemoe.stored_weights import find_folder, open_stored
from wemoe.towers import describes_tower

BACKBONES = frozenset(
    name for names in MODEL_MAPPING_NAMES.values() for name in ((names,) if isinstance(names, str) else names)
)


def load_model(
    name: str, label: str, dtype: torch.dtype | None = None, adapts: str | os.PathLike[str] | None = None
) -> PreTrainedModel:
    """Load a plain model by the class that its configuration names, every weight of it.

    Args:
        name: folder or repository; or a LoRA adapter, which is merged into its base.
        label: what the model is, for messages.
        dtype: of the weights; as they were saved by default.
        adapts: the base of an adapter; the one that it names by default.

    Returns:
        The model, in evaluation mode.

    Raises:
        ImportError: it is an adapter, and peft is not installed.
        OSError: there is no such model, or a file of it is missing.
        ValueError: it names no class of transformers, a file is damaged or a pickle, or the files lack tensors of the
            class or have some of other shapes.
    """
    model, missing = _load(name, label, dtype, adapts=adapts)
    if missing:
        raise ValueError(f"{label} must have every tensor of its class, {type(model).__name__}; missing: {missing[:5]}")
    return model


def load_base(name: str, like: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load the backbone of a base for experts of a class.

    It is loaded as what the experts are, so that it has the parts that they have (a pooler, say); a head that it was
    trained with is left out, and so is the text tower of a CLIP where the experts are vision towers.

    Args:
        name: folder or repository.
        like: an expert, with or without a head.
        dtype: of the weights; as they were saved by default.

    Raises:
        OSError: there is no such model, or a file of it is missing.
        ValueError: it is of another architecture, a file is damaged or a pickle, or the files lack tensors of the
            backbone.
    """
    _, wanted = backbone_of(like)
    model, missing = _load(name, "base_model", dtype, like=(type(like), type(wanted)))
    path, backbone = backbone_of(model)
    if type(backbone) is not type(wanted):
        raise ValueError(
            f"base_model must have the experts' backbone, {type(wanted).__name__}; found {type(backbone).__name__}"
        )
    inside = [tensor for tensor in missing if path is None or tensor.startswith(f"{path}.")]
    if inside:
        raise ValueError(
            f"base_model must have every tensor of the backbone, {type(backbone).__name__}; missing: {inside[:5]}"
        )
    return backbone


def backbone_of(model: PreTrainedModel) -> tuple[str | None, PreTrainedModel]:
    """Return a model's backbone and its path, which is None where the model itself is one.

    Raises:
        ValueError: there is none, or more than one.
    """
    kind = getattr(type(model), "base_class", type(model))  # of a routed model, the class that its own extends
    if kind.__name__ in BACKBONES:
        return None, model
    inside = [(path, child) for path, child in model.named_children() if isinstance(child, PreTrainedModel)]
    if len(inside) != 1:
        raise ValueError(
            f"a headed model must have one backbone; {kind.__name__} has {[path for path, _ in inside] or 'none'}"
        )
    return inside[0]


def _load(
    name: str,
    label: str,
    dtype: torch.dtype | None,
    like: tuple[type[PreTrainedModel], type[PreTrainedModel]] | None = None,
    adapts: str | os.PathLike[str] | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model, and the names of the tensors that its files lack, which are random.

    Where `like` gives the class of other models and that of their backbones, it is of the first if that has
    configurations of its kind, of the second if that is one of its towers; else it is of the class that it names.
    """
    adapted = None if adapts is None else find_folder(adapts, "base_model")
    with open_stored(name, label, adapted) as stored, _quiet():
        if stored.folder is None:
            raise ValueError(f"{label} must be the folder of a model, with its configuration; found the file {name!r}")
        config = cast("PreTrainedConfig", AutoConfig.from_pretrained(stored.folder))
        kind = (None if like is None else _class_like(config, *like)) or _named_class(config, label)
        try:
            loaded: Any = kind.from_pretrained(
                stored.folder, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True
            )
        except RuntimeError as error:  # of transformers, for shapes that differ
            raise ValueError(f"{label} must fit its own configuration; found: {error}") from error
    model, report = loaded
    model.name_or_path = model.config.name_or_path = name  # not a folder that may be gone
    return model.eval(), sorted(report["missing_keys"])


def _class_like(
    config: PreTrainedConfig, whole: type[PreTrainedModel], backbone: type[PreTrainedModel]
) -> type[PreTrainedModel] | None:
    """Return which of two classes a configuration's model can be loaded as."""
    if isinstance(config, cast("type[PreTrainedConfig]", whole.config_class)):
        return whole
    return backbone if describes_tower(config, backbone) else None


def _named_class(config: PreTrainedConfig, label: str) -> type[PreTrainedModel]:
    """Return the class that a configuration names.

    Raises:
        ValueError: it names none of transformers.
    """
    named: list[str] = config.architectures or []
    kind = getattr(transformers, named[0], None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(f"{label} must name a model class of transformers as its architecture; found {named}")
    return kind


@contextmanager
def _quiet() -> Iterator[None]:
    """Let transformers neither print progress bars nor warn of what is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
