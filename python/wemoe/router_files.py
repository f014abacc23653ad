"""Routers alone: a small checkpoint for those who have the base and the experts, and upcycle them themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from wemoe.checkpoints import read_json, routing_config
from wemoe.config import Provenance, RoutingConfig
from wemoe.files import replacing_files
from wemoe.routed_classes import RoutedModule
from wemoe.router_sharing import routers_of
from wemoe.safe_tensors import read_tensors
from wemoe.saving import as_written

ROUTERS_FILE = "routers.safetensors"
ROUTERS_CONFIG = "routers.json"


def save_routers(model: RoutedModule, folder: str | os.PathLike[str]) -> None:
    """Save the routers of a model, and how and of what it was upcycled.

    Args:
        model: a routed model.
        folder: gains `routers.safetensors` and `routers.json`; made if missing.

    Raises:
        TypeError: `model` is no routed model.
        ValueError: it does not say what it was made of.
        OSError: the folder cannot be written.
    """
    _check_model(model)
    tensors = {name: parameter.detach().contiguous() for name, parameter in _routers(model).items()}
    with replacing_files(folder, stale=()) as staging:
        save_file(tensors, staging / ROUTERS_FILE, metadata={"format": "pt"})
        written = as_written(model.routing_config).as_json()
        (staging / ROUTERS_CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def load_routers(model: RoutedModule, folder: str | os.PathLike[str]) -> None:
    """Load routers that `save_routers` wrote into a model that was upcycled from the same base and experts.

    Args:
        model: a routed model; its routers take the saved values, in place, and keep their dtype.
        folder: where the routers are.

    Raises:
        FileNotFoundError: the folder lacks a file.
        TypeError: `model` is no routed model.
        ValueError: the model was made of another base or other experts (by their hashes), or upcycled in another way,
            or does not say of what; a file is damaged, or a tensor is missing, unexpected or of another shape.
    """
    _check_model(model)
    path = Path(folder)
    saved = routing_config(path / ROUTERS_CONFIG, read_json(path / ROUTERS_CONFIG))
    _check_same(model.routing_config, saved)
    file = path / ROUTERS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"routers need {str(file)!r}; found no such file")
    tensors, routers = read_tensors(file), _routers(model)
    wrong = tensors.keys() ^ routers.keys()
    wrong |= {name for name in tensors.keys() & routers.keys() if tensors[name].shape != routers[name].shape}
    if wrong:
        raise ValueError(f"{str(file)!r} must hold exactly the model's routers; these differ: {sorted(wrong)[:5]}")
    with torch.no_grad():
        for name, router in routers.items():
            router.copy_(tensors[name])


def _routers(model: RoutedModule) -> dict[str, nn.Parameter]:
    """Parameters of the routers by name; one that several layers share is there once."""
    trained = {id(parameter) for router in routers_of(model) for parameter in router.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in trained}


def _check_model(model: object) -> None:
    if not isinstance(model, RoutedModule):
        raise TypeError(f"model must be a routed model; found {type(model).__name__}")
    if model.routing_config.provenance is None:
        raise ValueError(
            "model must say what it was made of; it came from a checkpoint of version 1, which does not. "
            "Upcycle base and experts again"
        )


def _check_same(model: RoutingConfig, saved: RoutingConfig) -> None:
    """Check that two models differ in nothing but their routers; names do not count, hashes do."""
    about_the_file = {"format_version", "wemoe_version", "provenance"}
    for name in sorted(RoutingConfig.model_fields.keys() - about_the_file):
        if getattr(model, name) != getattr(saved, name):
            raise ValueError(
                f"model must be upcycled with {name} = {getattr(saved, name)!r}, as the routers were; "
                f"found {getattr(model, name)!r}"
            )
    found, expected = _hashes(model.provenance), _hashes(saved.provenance)
    different = [role for role, sha256 in expected.items() if found.get(role) != sha256]
    if different or not expected:
        raise ValueError(
            "model must be made of the base and the experts that the routers were trained with; "
            f"by their sha256, these are others: {different}"
        )


def _hashes(provenance: Provenance | None) -> dict[str, str]:
    if provenance is None:
        return {}
    return {"base": provenance.base.sha256} | {
        f"expert {task!r}": source.sha256 for task, source in provenance.experts.items()
    }
