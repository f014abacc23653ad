"""Plain models from folders or repositories of the Hub: loaded strictly, and taken apart into backbone and head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

BACKBONES = frozenset(
    name for names in MODEL_MAPPING_NAMES.values() for name in ((names,) if isinstance(names, str) else names)
)


def load_model(name: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a plain model by the class that its configuration names, every weight of it.

    Args:
        name: folder or repository.
        dtype: of the weights; as they were saved by default.

    Returns:
        The model, in evaluation mode.

    Raises:
        OSError: there is no such model, or it has no safetensors.
        ValueError: it names no class of transformers, or its files lack tensors of the class or have others' shapes.
    """
    config = read_config(name)
    model, missing = _load(name, model_class(name, config), dtype)
    if missing:
        raise ValueError(
            f"{name!r} must hold every tensor of its class, {type(model).__name__}; missing: {missing[:5]}"
        )
    return model


def load_base(name: str, like: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load the backbone of a base for experts of a class.

    It is loaded as what the experts are, so that it has the parts that they have (a pooler, say); a head that it was
    trained with is left out.

    Args:
        name: folder or repository.
        like: an expert, with or without a head.
        dtype: of the weights; as they were saved by default.

    Raises:
        OSError: there is no such model, or it has no safetensors.
        ValueError: it is of another architecture, or lacks tensors of the backbone.
    """
    config = read_config(name)
    kind = type(like) if isinstance(config, cast("type", type(like).config_class)) else model_class(name, config)
    model, missing = _load(name, kind, dtype)
    path, backbone = backbone_of(model)
    _, wanted = backbone_of(like)
    if type(backbone) is not type(wanted):
        raise ValueError(
            f"base_model must have the experts' backbone, {type(wanted).__name__}; {name!r} has "
            f"{type(backbone).__name__}"
        )
    inside = [tensor for tensor in missing if path is None or tensor.startswith(f"{path}.")]
    if inside:
        raise ValueError(
            f"base_model {name!r} must hold every tensor of the backbone, {type(backbone).__name__}; missing: "
            f"{inside[:5]}"
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


def read_config(name: str) -> PreTrainedConfig:
    """Read a model's configuration.

    Raises:
        OSError: there is none.
        ValueError: transformers does not know the model.
    """
    return cast("PreTrainedConfig", AutoConfig.from_pretrained(name))


def model_class(name: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class that a configuration names.

    Raises:
        ValueError: it names none of transformers.
    """
    named: list[str] = config.architectures or []
    kind = getattr(transformers, named[0], None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(f"{name!r} must name a model class of transformers as its architecture; found {named}")
    return kind


def _load(name: str, kind: type[PreTrainedModel], dtype: torch.dtype | None) -> tuple[PreTrainedModel, list[str]]:
    """Load a model and the names of the tensors that its files lack, which are random."""
    try:
        with _quiet():
            loaded: Any = kind.from_pretrained(
                name, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True
            )
    except RuntimeError as error:  # of transformers, for shapes that differ
        raise ValueError(f"{name!r} must fit its own configuration; found: {error}") from error
    model, report = loaded
    return model.eval(), sorted(report["missing_keys"])


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
