"""Upcycling: a base and its fine-tuned experts become one routed model of the base's own class."""

from __future__ import annotations

import copy
import warnings
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from wemoe.config import RoutingConfig
from wemoe.layers import RoutedLinear, RoutedMLP
from wemoe.merging import task_arithmetic
from wemoe.mlps import MLPParts
from wemoe.models import Family, find_blocks
from wemoe.routed_classes import RoutedBlock, RoutedModel, specialise
from wemoe.routers import Router, build_router
from wemoe.task_vectors import Experts, name_experts


def upcycle(
    base_model: PreTrainedModel,
    expert_models: Experts[PreTrainedModel],
    *,
    init_lambda: float = 0.3,
    router_hidden_layers: int = 2,
    batch_reduce: bool = False,
) -> RoutedModel:
    """Make a WEMoE of a base and its experts (arXiv 2402.00433, section 3.3).

    Every MLP becomes a routed MLP of the pre-trained weights, the experts' task vectors and a fresh router, whose
    random initial values come from torch's global generator; everything else is merged by task arithmetic. Padding
    never changes a sample's output: routed MLPs average over the tokens that the attention mask lets take part.

    Args:
        base_model: a Hugging Face model of a known family (`wemoe.models.FAMILIES`); untouched.
        expert_models: T models fine-tuned from it, of its class: a sequence or a mapping from task name; untouched.
        init_lambda: scaling of the statically merged rest, and the routing weight that every task starts near.
        router_hidden_layers: depth of the routers: 0 (one learned constant per MLP and task), 1 or 2.
        batch_reduce: average the routing weights over the batch, so that its samples share one set of weights.

    Returns:
        A new model of the base's own class, in evaluation mode where the base is; only its routers require
        gradients.

    Raises:
        TypeError: the base is no Hugging Face model, or `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, the base belongs to no known family, or
            another argument is out of its range.
    """
    if not isinstance(base_model, PreTrainedModel):
        raise TypeError(
            f"base_model must be a Hugging Face PreTrainedModel; found {type(base_model).__name__}. "
            "For a single MLP there is wemoe.WeightEnsemblingMoE."
        )
    if isinstance(base_model, RoutedModel):
        raise TypeError("base_model must be a plain model; found one that is upcycled already")
    experts = name_experts(expert_models)
    config = RoutingConfig(
        base_class=type(base_model).__name__,
        absent=_absent_children(base_model),
        tasks=tuple(experts),
        init_lambda=init_lambda,
        router_hidden_layers=router_hidden_layers,  # type: ignore[arg-type]  # checked here, by pydantic
        batch_reduce=batch_reduce,
    )
    blocks = find_blocks(base_model)
    model = task_arithmetic(base_model, experts, init_lambda)
    for path, family in blocks.items():
        base, *tuned = (_mlp_parts(source, path, family) for source in (base_model, *experts.values()))
        routed = RoutedMLP.from_parts(base, tuned, _router(config, base), batch_reduce)
        _install(model.get_submodule(path), family, routed)
    return _finish(model, config)


def prepare_for_loading(model: PreTrainedModel, config: RoutingConfig) -> RoutedModel:
    """Turn a plain model into the routed model of a configuration, its weights still to be loaded."""
    blocks = find_blocks(model)
    for path, family in blocks.items():
        base = _mlp_parts(model, path, family)
        _install(model.get_submodule(path), family, _empty_routed_mlp(base, config))
    return _finish(model, config)


def _absent_children(model: PreTrainedModel) -> tuple[str, ...]:
    with no_init_weights():
        whole = type(model)(copy.deepcopy(model.config))
    return tuple(name for name, _ in whole.named_children() if getattr(model, name, None) is None)


def _mlp_parts(model: nn.Module, path: str, family: Family) -> MLPParts:
    block = model.get_submodule(path)
    up, down = (block.get_submodule(slot) for slot in (family.mlp.up, family.mlp.down))
    owner, _, name = family.mlp.activation.rpartition(".")
    activation = getattr(block.get_submodule(owner), name)  # a module, or a function of the configuration
    return MLPParts(cast("nn.Linear", up), activation, cast("nn.Linear", down))


def _router(config: RoutingConfig, base: MLPParts) -> Router:
    router = build_router(base.up.in_features, len(config.tasks), config.init_lambda, config.router_hidden_layers)
    return router.to(base.up.weight.device)


def _empty_routed_mlp(base: MLPParts, config: RoutingConfig) -> RoutedMLP:
    def empty(linear: nn.Linear) -> RoutedLinear:
        weight, bias = linear.weight, linear.bias is not None
        tasks = len(config.tasks)
        return RoutedLinear(linear.in_features, linear.out_features, tasks, bias, weight.dtype, weight.device)

    router = _router(config, base)
    return RoutedMLP(empty(base.up), base.activation, empty(base.down), router, config.batch_reduce)


def _install(block: nn.Module, family: Family, routed: RoutedMLP) -> None:
    """Put a routed MLP in the place of a block's MLP, and let the block hand its token mask over."""
    block.set_submodule(family.mlp.replaced, routed)
    for path in family.mlp.bypassed:
        block.set_submodule(path, nn.Identity())
    if getattr(block, "chunk_size_feed_forward", 0):
        warnings.warn(
            f"chunk_size_feed_forward is set to 0 in {type(block).__name__}: a router must see whole samples",
            stacklevel=3,
        )
        setattr(block, "chunk_size_feed_forward", 0)  # noqa: B010 - an attribute that nn.Module does not declare
    block.__class__ = specialise(type(block), RoutedBlock)


def _finish(model: PreTrainedModel, config: RoutingConfig) -> RoutedModel:
    """Freeze everything but the routers and give the model the class of a routed model."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, RoutedMLP):
            module.router.requires_grad_(True)
    routed = cast("RoutedModel", model)
    routed.__class__ = cast("type[RoutedModel]", specialise(type(model), RoutedModel))
    routed.routing_config = config
    return routed
