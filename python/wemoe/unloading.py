"""Unloading: constant routing weights folded into plain weights, W0 + sum_t lambda_t tau_t, once for all inputs.

What comes out is a model of the base's own class that needs nothing of this library. With routers of depth 0 it
computes what the routed model computes (AdaMerging with one coefficient per MLP and task), and so it does with routers
that read a preference (PWEMoE), for each preference another one. Routers that read their input can be replaced by
constants, their mean over some data say, but that is another model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from wemoe.config import RoutingConfig
from wemoe.heads import plain_class
from wemoe.layers import RoutedMap, RoutedMLP
from wemoe.mlps import LinearMap, parts_at
from wemoe.models import find_blocks
from wemoe.preference_layers import PreferenceLayer
from wemoe.preferences import PreferenceLike, check_preference, get_preference
from wemoe.routed_classes import RoutedModule
from wemoe.routers import ConstantRouter
from wemoe.skeletons import skeleton_of, without_weights
from wemoe.sparse_layers import SparseRoutedLinear
from wemoe.task_vectors import check_range
from wemoe.tensor_slots import find_shared, find_slots, share
from wemoe_ext import expand_task_vectors, merge_weights, unpack_task_vectors

RoutingWeights = Tensor | Sequence[float] | Mapping[str, Tensor | Sequence[float]]


def merge_and_unload(
    model: RoutedModule,
    preference: PreferenceLike | None = None,
    *,
    routing_weights: RoutingWeights | None = None,
    base_model: nn.Module | None = None,
) -> nn.Module:
    """Fold a routed model into a plain one.

    Args:
        model: a routed model, in memory; untouched.
        preference: of a PWEMoE, [T] or by task, as `wemoe.set_preference` takes it; by default the one that is set.
        routing_weights: of a model whose routers read their input, [T] for all MLPs, in the order of the model's
            tasks, or by the path of each routed MLP, as `wemoe.record_routing` names them. By default those of the
            routers, which must be of depth 0.
        base_model: for a base of a class that is not in transformers: an instance of it, made like the base. Its
            weights are not used, and it stays untouched.

    Returns:
        A new model of the base's class, with all parameters trainable, in the mode, in the dtypes and on the devices of
        the routed one. Its weights are rounded to the base's dtype, where the routed model adds in fp32.

    Raises:
        TypeError: `model` is no routed model, or `base_model` is no plain module.
        ValueError: the routing depends on the input and no `routing_weights` are given, those are not T finite numbers
            for every MLP, there is no one preference or the model reads none, weights are sharded or not in memory, or
            a merged weight is beyond the range of float16.
    """
    if not isinstance(model, RoutedModule):
        raise TypeError(f"model must be a routed model; found {type(model).__name__}")
    _check_in_memory(model)
    chosen = routing_constants(model, preference, routing_weights)
    plain = _skeleton(model, base_model)
    _share_alike(model, plain)
    _copy_rest(model, plain)
    if model.routing_config.reads == "preference":
        _fold_layers(model, plain, chosen)
    else:
        _fold_mlps(model, plain, chosen)
    return plain.train(model.training)


def routing_constants(
    model: RoutedModule, preference: PreferenceLike | None = None, routing_weights: RoutingWeights | None = None
) -> dict[str, Tensor]:
    """Return by the path of each routed MLP, or each module of a PWEMoE, the routing weights [T] of its fold.

    Raises:
        ValueError: as in `merge_and_unload`, of the routing.
    """
    check_routing(model.routing_config, preference, routing_weights)
    if model.routing_config.reads == "preference":
        return _of_preference(model, preference)
    routed = _routed_mlps(model)
    return _constants(routed) if routing_weights is None else _given(model, routed, routing_weights)


def _of_preference(model: RoutedModule, preference: PreferenceLike | None) -> dict[str, Tensor]:
    tasks = model.routing_config.tasks
    value = get_preference(model) if preference is None else check_preference(preference, tasks)
    rows = value.reshape(-1, len(tasks))
    if len(rows) != 1:
        raise ValueError(f"preference must be one for all samples, [T], to be folded; found {list(value.shape)}")
    with torch.no_grad():
        return {path: layer.router.routing_weights(rows)[0] for path, layer in _preference_layers(model).items()}


def _preference_layers(model: nn.Module) -> dict[str, PreferenceLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, PreferenceLayer)}


def _routed_mlps(model: nn.Module) -> dict[str, RoutedMLP]:
    return {path: module for path, module in model.named_modules() if isinstance(module, RoutedMLP)}


def check_routing(
    config: RoutingConfig, preference: PreferenceLike | None, routing_weights: RoutingWeights | None
) -> None:
    """Check that what is given makes the routing of a model constant; nothing of the model is needed.

    Raises:
        ValueError: it belongs to routers of another kind, the preference is none, or the routing depends on the input.
    """
    if config.reads == "preference":
        if routing_weights is not None:
            raise ValueError("routing_weights belong to routers that read their input; this model reads a preference")
        if preference is not None:
            check_preference(preference, config.tasks)
    elif preference is not None:
        raise ValueError(f"preference belongs to a model of method pwemoe; found one of method {config.method}")
    elif routing_weights is None and config.router_hidden_layers:
        raise ValueError(
            "model must have routers of depth 0, whose routing weights are constants; found depth "
            f"{config.router_hidden_layers}, which reads its input. Give routing_weights, the mean of recorded ones "
            "say, to put constants in its place"
        )


def _constants(routed: Mapping[str, RoutedMLP]) -> dict[str, Tensor]:
    return {path: cast("ConstantRouter", mlp.router).weight.detach() for path, mlp in routed.items()}


def _given(model: RoutedModule, routed: Mapping[str, RoutedMLP], given: RoutingWeights) -> dict[str, Tensor]:
    by_path = dict(given) if isinstance(given, Mapping) else dict.fromkeys(routed, given)
    if by_path.keys() != routed.keys():
        raise ValueError(
            f"routing_weights must be keyed by the paths of the routed MLPs {list(routed)}; found {list(by_path)}"
        )
    tasks, found = model.routing_config.tasks, {}
    for path, values in by_path.items():
        weights = torch.as_tensor(values, dtype=torch.float32).detach()
        if weights.shape != (len(tasks),) or not bool(weights.isfinite().all()):
            raise ValueError(f"routing_weights must be {len(tasks)} finite numbers, of {list(tasks)}; found {values}")
        found[path] = weights
    return found


def _check_in_memory(model: nn.Module) -> None:
    for name, tensor in model.named_parameters():
        if tensor.is_meta or isinstance(tensor, DTensor):
            where = "on the meta device" if tensor.is_meta else "sharded"
            raise ValueError(f"a model must be whole and in memory to be unloaded; {name!r} is {where}")


def _skeleton(model: RoutedModule, base_model: nn.Module | None) -> nn.Module:
    """Make a plain model without memory for its weights."""
    kind: type[nn.Module] = plain_class(model)
    if base_model is not None:
        if not isinstance(base_model, kind) or isinstance(base_model, RoutedModule):
            raise TypeError(f"base_model must be a plain {kind.__name__}; found {type(base_model).__name__}")
        return skeleton_of(base_model).requires_grad_(True)
    if not issubclass(kind, PreTrainedModel):
        raise TypeError(f"base_model must be an instance of {kind.__name__}, which is no class of transformers")
    with without_weights():
        plain = kind(cast("PreTrainedConfig", copy.deepcopy(model.config)))
    for child in model.routing_config.absent:
        setattr(plain, child, None)
    generation = getattr(model, "generation_config", None)
    if isinstance(generation, GenerationConfig):
        plain.generation_config = copy.deepcopy(generation)
    return plain


def _share_alike(model: RoutedModule, plain: nn.Module) -> None:
    """Let the plain model hold once what the routed one does, outside its routed modules."""
    if isinstance(plain, PreTrainedModel):
        plain.tie_weights()
    inside = [f"{path}." for path in (*_routed_mlps(model), *_preference_layers(model))]
    shared = find_shared(model)
    share(plain, {path: first for path, first in shared.items() if not path.startswith(tuple(inside))})


def _copy_rest(model: RoutedModule, plain: nn.Module) -> None:
    """Copy every tensor that both models have under one name: all but those of the routed modules."""
    own = {name: slot.tensor for slot in find_slots(model) for name in slot.names}
    for slot in find_slots(plain):
        name = next((name for name in slot.names if name in own), None)
        if name is not None:
            slot.fill(own[name].detach().clone())


def _fold_mlps(model: RoutedModule, plain: nn.Module, chosen: Mapping[str, Tensor]) -> None:
    """Fill the MLPs of a plain model, merged by the routing weights of each."""
    routed = _routed_mlps(model)
    for path, family in find_blocks(plain, model.routing_config.families).items():
        name = f"{path}.{family.mlp.replaced}"
        parts = parts_at(plain.get_submodule(path), family.mlp)
        mlp = routed[name]
        for piece, target, layer in (
            ("up", parts.up, mlp.up),
            ("gate", parts.gate, mlp.gate),
            ("down", parts.down, mlp.down),
        ):
            if target is not None and layer is not None:
                _fold(f"{name}.{piece}", target, layer, chosen[name])


def _fold_layers(model: RoutedModule, plain: nn.Module, chosen: Mapping[str, Tensor]) -> None:
    """Fill the modules of a plain model that a preference merges."""
    for path, layer in _preference_layers(model).items():
        target = plain.get_submodule(path)
        with torch.no_grad():
            merged = layer.merged(chosen[path].unsqueeze(0))
        for slot in find_slots(target):
            if isinstance(slot.tensor, nn.Parameter):
                tensor = merged[slot.names[0]][0]
                check_range(f"the merged {path}.{slot.names[0]!r}", tensor)
                slot.fill(tensor.T.contiguous() if _is_transposed(target, slot.names[0]) else tensor.clone())


def _is_transposed(module: nn.Module, name: str) -> bool:
    return isinstance(module, Conv1D) and name == "weight"


def _fold(path: str, target: LinearMap, layer: RoutedMap, routing_weights: Tensor) -> None:
    merged = _merged(f"{path}.weight", *_plain(layer), routing_weights)
    target.weight = nn.Parameter(merged.T.contiguous() if isinstance(target, Conv1D) else merged)
    if layer.bias is not None and layer.task_biases is not None:
        target.bias = nn.Parameter(_merged(f"{path}.bias", layer.bias, layer.task_biases, routing_weights))


def _plain(layer: RoutedMap) -> tuple[Tensor, Tensor]:
    """Return the weight [F, D] of a layer and its task vectors [T, F, D]."""
    if isinstance(layer, SparseRoutedLinear):
        weight = layer.weight.detach()
        packed = weight if layer.is_packed else layer.to_packed(weight)[0]
        weight, task_vectors = unpack_task_vectors(packed, expand_task_vectors(layer.task_vectors))
        return weight[: layer.out_features], task_vectors[:, : layer.out_features]
    weight, task_vectors = layer.weight.detach(), layer.task_vectors.detach()
    return unpack_task_vectors(weight, task_vectors) if layer.is_packed else (weight, task_vectors)


def _merged(label: str, base: Tensor, task_vectors: Tensor, routing_weights: Tensor) -> Tensor:
    chosen = routing_weights.to(base.device).unsqueeze(0)  # [1, T]
    with torch.no_grad():
        merged = merge_weights(base.detach(), task_vectors.detach(), chosen)[0]
    check_range(f"the merged {label!r}", merged)
    return merged.clone()
