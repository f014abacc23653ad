"""Loading a routed model from its folder alone: neither the base nor the experts are needed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pydantic
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from wemoe.config import FORMAT_VERSION, RoutingConfig
from wemoe.layers import RoutedLinear
from wemoe.routed_classes import RoutedModule
from wemoe.safe_tensors import read_tensors
from wemoe.saving import MODEL_TYPE, WEIGHTS_GLOB
from wemoe.upcycling import prepare_for_loading


def from_pretrained(folder: str | os.PathLike[str]) -> RoutedModule:
    """Load a routed model that `save_pretrained` wrote; strict, and in evaluation mode.

    Args:
        folder: the checkpoint folder.

    Returns:
        The model, of its base's own class, with the dtypes that were saved and bit-equal outputs.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks its configuration or weights.
        ValueError: the folder is no routed model, is of another format version, a file is damaged, or a tensor is
            missing, unexpected or of another shape.
    """
    path = Path(folder)
    configuration = _read_configuration(path)
    config = _routing_config(path, configuration)
    with no_init_weights():
        plain = _base_model(path, config, configuration["base_config"])
        model = prepare_for_loading(plain, config)
    plain.tie_weights()
    _load_weights(model, _read_weights(path), path)
    model.eval()
    return model


def _read_configuration(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"a routed model needs {str(file)!r}; found no such file")
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(file)!r} must be JSON; found: {error}") from error
    kind = configuration.get("model_type") if isinstance(configuration, dict) else None
    if kind != MODEL_TYPE:
        raise ValueError(f"{str(file)!r} must say model_type {MODEL_TYPE!r}; found {kind!r}")
    for key in ("wemoe", "base_config"):
        if not isinstance(configuration.get(key), dict):
            raise ValueError(f"{str(file)!r} must hold an object {key!r}; found {configuration.get(key)!r}")
    return configuration  # type: ignore[no-any-return]


def _routing_config(path: Path, configuration: Mapping[str, Any]) -> RoutingConfig:
    version = configuration["wemoe"].get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{str(path)!r} must be of format version {FORMAT_VERSION}; found {version!r}. "
            "A newer version of wemoe may read it."
        )
    try:
        return RoutingConfig.model_validate(configuration["wemoe"])
    except pydantic.ValidationError as error:
        raise ValueError(f"{str(path / 'config.json')!r} holds no valid routing configuration: {error}") from error


def _base_model(path: Path, config: RoutingConfig, base_config: dict[str, Any]) -> PreTrainedModel:
    base_class = getattr(transformers, config.base_class, None)
    if not (isinstance(base_class, type) and issubclass(base_class, PreTrainedModel)):
        raise ValueError(
            f"{str(path)!r} must name a model class of transformers; found base_class {config.base_class!r}"
        )
    config_class = cast("type[PreTrainedConfig]", base_class.config_class)
    plain = base_class(config_class.from_dict(base_config))
    for child in config.absent:
        setattr(plain, child, None)
    return plain


def _read_weights(path: Path) -> dict[str, Tensor]:
    files = sorted(file for file in path.glob(WEIGHTS_GLOB) if file.suffix == ".safetensors")
    if not files:
        raise FileNotFoundError(f"a routed model needs weights {WEIGHTS_GLOB!r}; found none in {str(path)!r}")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights.update(read_tensors(file))
    return weights


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put every tensor in its place; tied names may stand for one another, nothing else may be missing."""
    places = model.state_dict(keep_vars=True)
    stored = {places[name].data_ptr() for name in weights if name in places}
    missing = [name for name, place in places.items() if place.data_ptr() not in stored]
    unexpected = [name for name in weights if name not in places]
    misshapen = [name for name in weights.keys() & places.keys() if weights[name].shape != places[name].shape]
    for fault, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            raise ValueError(f"{str(path)!r} must hold exactly the model's tensors; {fault}: {sorted(names)[:5]}")
    with torch.no_grad():
        for name, tensor in weights.items():
            place = places[name]
            place.data = tensor.to(place.device)
    for module in model.modules():
        if isinstance(module, RoutedLinear):
            module.pack()
