"""Saving a routed model whole: format version 2.

A checkpoint folder holds `config.json` (`model_type: wemoe`, how the model was upcycled and of what, the base's own
configuration nested, what is shared), `wemoe*.safetensors` (base weights, task vectors, routers), `README.md` (the
model card) and, where there are some, `generation_config.json` and `heads.safetensors`. Plain transformers finds no
weights under these names and fails loudly, instead of filling a plain model with random MLPs.

The version rises when an older reader would take a folder for something else. What it merely does not know, such as
sparse task vectors or a shared router, an older reader refuses by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedConfig

from wemoe.config import FORMAT_VERSION, RoutingConfig
from wemoe.files import check_writable, replacing_files
from wemoe.heads import HEADS_FILE, Heads, task_heads, write_heads
from wemoe.model_card import CARD_FILE, card_text, may_write_card
from wemoe.packed_layers import PackedLinear
from wemoe.provenance import public_name
from wemoe.repositories import GENERATION_FILE
from wemoe.shards import Stored, write_shards
from wemoe.tensor_slots import Slot, find_shared, find_slots

if TYPE_CHECKING:
    from wemoe.routed_classes import RoutedModule

MODEL_TYPE = "wemoe"
WEIGHTS_PATTERN = "wemoe{suffix}.safetensors"
WEIGHTS_GLOB = "wemoe*.safetensors*"


def save(
    model: RoutedModule,
    folder: str | os.PathLike[str],
    *,
    state_dict: dict[str, Tensor] | None = None,
    max_shard_size: int | str = "5GB",
    heads: Heads | None = None,
) -> None:
    """Save a routed model; see `RoutedModule.save_pretrained`."""
    kept_heads = task_heads(heads or {}, model)
    check_writable(os.path.dirname(os.path.abspath(folder)))
    config = as_written(model.routing_config)
    shared = find_shared(model)
    if state_dict is None:
        tensors = _own_tensors(model)
    else:
        shared = {path: first for path, first in shared.items() if _inside(path, state_dict)}
        tensors = _given_tensors(model, state_dict, shared)
    configuration = {
        "model_type": MODEL_TYPE,
        "architectures": [config.base_class],
        "wemoe": config.as_json(),
        "base_config": _base_config(model),
        "shared": shared,
    }
    generation = getattr(model, "generation_config", None)
    card = may_write_card(Path(folder))
    with replacing_files(folder, stale=(WEIGHTS_GLOB, HEADS_FILE, GENERATION_FILE)) as staging:
        write_shards(tensors, staging, WEIGHTS_PATTERN, max_shard_size)
        if kept_heads:
            write_heads(kept_heads, staging)
        if isinstance(generation, GenerationConfig):
            generation.save_pretrained(staging)
        if card:
            (staging / CARD_FILE).write_text(card_text(config), encoding="utf-8")
        (staging / "config.json").write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def as_written(config: RoutingConfig) -> RoutingConfig:
    """Return a configuration as this version of the library writes it."""
    return config.model_copy(update={"format_version": FORMAT_VERSION, "wemoe_version": version("wemoe")})


def _base_config(model: RoutedModule) -> dict[str, Any] | None:
    """Return the base's own configuration, if it has one, without the paths that local folders have on this machine."""
    base_config = getattr(model, "config", None)
    return _published(base_config.to_dict()) if isinstance(base_config, PreTrainedConfig) else None


def _published(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with public names, also in the configurations inside it."""
    published = {key: _published(value) if isinstance(value, dict) else value for key, value in config.items()}
    if "_name_or_path" in config:
        published["_name_or_path"] = public_name(config["_name_or_path"]) or ""
    return published


def _own_tensors(model: RoutedModule) -> dict[str, Stored]:
    """Return what is to be saved of a model, by its first name, in plain shapes.

    State dicts leave out buffers that are computed when a model is made. Those with a fraction are saved as well: a
    conversion of the model may have rounded them.
    """
    slots = [slot for slot in find_slots(model) if slot.persistent or slot.tensor.is_floating_point()]
    hollow = [slot.names[0] for slot in slots if slot.tensor.is_meta]
    if hollow:
        raise ValueError(f"a model must be in memory to be saved; on the meta device: {hollow[:5]}")
    _check_whole({slot.names[0]: slot.tensor for slot in slots})
    return {slot.names[0]: Stored(slot.tensor.nbytes, partial(_plain, slot)) for slot in slots}


def _plain(slot: Slot) -> Tensor:
    owner, attribute = slot.owners[0]
    if isinstance(owner, PackedLinear) and attribute in owner.packed_names:
        return cast("Tensor", owner.state_dict()[attribute])  # unpacked
    return slot.tensor


def _given_tensors(model: RoutedModule, state: Mapping[str, Tensor], shared: Mapping[str, str]) -> dict[str, Stored]:
    """Return what is to be saved of a state dict that was gathered elsewhere."""
    derived = {slot.names[0]: slot.tensor for slot in find_slots(model) if not slot.persistent}
    tensors = {**state, **{name: tensor for name, tensor in derived.items() if tensor.is_floating_point()}}
    _check_whole(tensors)
    twice = {name for path in shared for name in _inside(path, state)}
    return {
        name: Stored(tensor.nbytes, partial(tensors.__getitem__, name))
        for name, tensor in tensors.items()
        if name not in twice
    }


def _check_whole(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            raise ValueError(
                f"state_dict must hold whole tensors; {name!r} is sharded. Gather it in every process: "
                "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))"
            )


def _inside(path: str, names: Iterable[str]) -> list[str]:
    """Return the names of what is at a path or below it."""
    return [name for name in names if name == path or name.startswith(f"{path}.")]
