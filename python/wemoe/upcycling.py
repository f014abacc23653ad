"""Upcycling: a base and its fine-tuned experts become one routed model of the base's own class."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import cast

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from wemoe.config import RoutingConfig, check_dtype
from wemoe.footprint import measure, readable
from wemoe.layers import RoutedLinear, RoutedMap, RoutedMLP
from wemoe.matching import Problem
from wemoe.merging import transforms
from wemoe.merging.rules import Sources, merged_copy, open_sources
from wemoe.merging.running import base_module, expert_mlp
from wemoe.merging.task_arithmetic import task_arithmetic_rule
from wemoe.mlps import LinearMap, MLPParts, linear_sizes, parts_at
from wemoe.models import Family, find_blocks
from wemoe.models.blocks import is_batch_first, takes_attention_mask, unknown_families
from wemoe.preference_upcycling import put_preference_layers, route_by_preference
from wemoe.provenance import provenance_of
from wemoe.routed_classes import RoutedBlock, RoutedCausalModel, RoutedModel, RoutedModule
from wemoe.routed_methods import Modules, choose, kept_entries
from wemoe.router_sharing import Routers, routers_of
from wemoe.routers import Router
from wemoe.skeletons import skeleton_of, without_weights
from wemoe.sparse_layers import SparseRoutedLinear
from wemoe.specialising import specialise
from wemoe.weights import ExpertSources


def upcycle(
    base_model: nn.Module | str | os.PathLike[str],
    expert_models: ExpertSources,
    *,
    method: str = "wemoe",
    init_lambda: float = 0.3,
    router_hidden_layers: int = 2,
    modules: Modules = "mlp",
    share_router: bool | None = None,
    prune_ratio: float | None = None,
    position_encoding: bool = False,
    batch_reduce: bool = False,
    family: Family | None = None,
    task_vector_dtype: torch.dtype | None = None,
    progress: bool = True,
) -> RoutedModule:
    """Make a WEMoE, an E-WEMoE or a PWEMoE of a base and its experts (arXiv 2402.00433, 2410.21804, 2406.09770).

    Every MLP becomes a routed MLP of the pre-trained weights, the experts' task vectors and a fresh router, whose
    random initial values come from torch's global generator; everything else is merged by task arithmetic. Padding
    never changes a sample's output: routed MLPs average over the tokens that the attention mask lets take part. A
    model that writes is routed by its prompt, a decoder that reads an encoder by its first token (`wemoe.token_masks`).

    E-WEMoE has one router for all MLPs, and keeps of each tensor of each task vector a tenth, the entries of largest
    magnitude. Task vectors that are pruned are sparse, in memory and in files: at the published ratio in fp32 they take
    0.13 of their dense size. Each of the two choices can be made for itself.

    The routers of a PWEMoE read the user's preference among the tasks in place of hidden states (`set_preference`), and
    can route attention and norms as well. They are trained on labelled data (`wemoe.pareto.train`).

    Args:
        base_model: a Hugging Face model, or any module whose blocks stand in a list of layers; untouched. Families
            with descriptions are in `wemoe.models.FAMILIES`, other blocks are found by structure. Or where a
            checkpoint is, a folder or a repository, which is loaded with the class in its configuration.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name, each a module, a state
            dict, or where a checkpoint or a LoRA adapter is; untouched. Of those in files, one block of each is in
            memory at a time. Heads that they have beside the base's backbone are left out (`wemoe.with_head` and
            `save_pretrained` take them); a base with a head of its own is upcycled as its backbone where the experts
            have other heads.
        method: `wemoe`, a router for every MLP and whole task vectors; `e_wemoe`, a shared router and task vectors
            pruned by 0.9, which is what it means for the arguments that are None; or `pwemoe`, routers that read a
            preference.
        init_lambda: scaling of the statically merged rest, and the routing weight that every task starts near.
        router_hidden_layers: depth of the routers: 0 (one learned constant per MLP and task; not for a preference), 1
            or 2.
        modules: what a PWEMoE routes, each with a router of its own: every `mlp`; `mlp+attention`; or `all`, with the
            norms and the convolution that embeds patches. Families whose attention and norms are described can have
            more than their MLPs routed.
        share_router: whether all MLPs have one router, which sees each block's own hidden states; their blocks must be
            of one width.
        prune_ratio: share of the entries of each tensor of each task vector, biases too, that is removed; 0 keeps
            everything, and task vectors dense.
        position_encoding: whether a shared router also reads which block is asking, as eight sinusoids before the
            hidden states of each token (its width is 8 more).
        batch_reduce: average the routing weights over the batch, so that its samples share one set of weights; in a
            distributed run over each process's own part of it.
        family: your own description of the base's blocks.
        task_vector_dtype: of the task vectors of the MLPs, `torch.bfloat16` say to halve them beside a base in fp32;
            the base's dtype by default.
        progress: whether to show a progress bar, with what the model will take in memory.

    Returns:
        A new model of the base's own class, in evaluation mode where the base is, and from files; only its routers
        require gradients.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: the base is neither a module nor a checkpoint, or is upcycled already, or `expert_models` is no
            sequence or mapping of sources.
        ValueError: there is no expert, an expert does not fit the base, the base has no MLP that can be routed, a
            tensor is not finite, a file is damaged, or another argument is out of its range.
    """
    check_dtype("task_vector_dtype", task_vector_dtype)
    if isinstance(base_model, RoutedModule):
        raise TypeError("base_model must be a plain model; found one that is upcycled already")
    chosen = choose(method, share_router, prune_ratio, position_encoding, modules)
    chosen.check(router_hidden_layers)
    if batch_reduce and chosen.reads == "preference":
        raise ValueError("batch_reduce must be False where routers read a preference, which is no part of a batch")
    with open_sources(base_model, expert_models) as sources:
        base = base_module(base_model, sources)
        blocks = find_blocks(base, () if family is None else (family,))
        config = RoutingConfig(
            method=method,  # type: ignore[arg-type]  # checked above
            **asdict(chosen),
            base_class=type(base).__name__,
            absent=absent_children(base),
            tasks=tuple(sources.experts),
            init_lambda=init_lambda,
            router_hidden_layers=router_hidden_layers,  # type: ignore[arg-type]  # checked here, by pydantic
            batch_reduce=batch_reduce,
            families=unknown_families(blocks),
        )
        _check_blocks(sources, blocks)
        if chosen.reads == "input":
            _warn_of_unread_masks(base, blocks)
        skeleton = skeleton_after_upcycling(base, config, task_vector_dtype)  # refuses what does not fit before work
        title = f"upcycle ({readable(measure(skeleton).total)})" if progress else None
        model = merged_copy(base, sources, task_arithmetic_rule(sources, scaling=init_lambda))
        provenance = provenance_of(sources.base, sources.experts)
        config = config.model_copy(update={"provenance": provenance})
        route = route_by_preference if chosen.reads == "preference" else _route_by_input
        route(model, base, sources, blocks, config, task_vector_dtype, title)
    return _finish(model, config)


def skeleton_after_upcycling(
    base_model: nn.Module, config: RoutingConfig, task_vector_dtype: torch.dtype | None = None
) -> RoutedModule:
    """Make the routed model that upcycling a base would give, without memory for its weights."""
    with without_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what upcycling warns of, it warns of itself
        return prepare_for_loading(skeleton_of(base_model), config, task_vector_dtype)


def prepare_for_loading(
    model: nn.Module, config: RoutingConfig, task_vector_dtype: torch.dtype | None = None
) -> RoutedModule:
    """Turn a plain model into the routed model of a configuration, its weights still to be loaded."""
    blocks = find_blocks(model, config.families)
    put = put_preference_layers if config.reads == "preference" else _put_routed_mlps
    put(model, blocks, config, task_vector_dtype)
    return _finish(model, config)


def absent_children(model: nn.Module) -> tuple[str, ...]:
    """Return the children that the model's class makes from its configuration, and the model was made without."""
    if not isinstance(model, PreTrainedModel):
        return ()
    with without_weights():
        whole = type(model)(copy.deepcopy(model.config))
    return tuple(name for name, _ in whole.named_children() if getattr(model, name, None) is None)


def _check_blocks(sources: Sources, blocks: Mapping[str, Family]) -> None:
    """Check that experts have the blocks that are routed: the base may have parts that none of them has."""
    routed = tuple(f"{path}." for path in blocks)
    for task, found in sources.matching.experts.items():
        missing = tuple(repr(name) for name in sources.matching.base if name not in found and name.startswith(routed))
        if missing:
            rule = "have the blocks of base_model that are routed"
            raise ValueError(Problem(sources.experts[task].label, rule, (("missing: ", missing),)).text())


def _route_by_input(
    model: nn.Module,
    base: nn.Module,
    sources: Sources,
    blocks: Mapping[str, Family],
    config: RoutingConfig,
    task_vector_dtype: torch.dtype | None,
    title: str | None,
) -> None:
    """Put routed MLPs of the base's MLPs and the experts' task vectors into a merged model, in place."""
    prune = partial(transforms.prune, ratio=config.prune_ratio) if config.prune_ratio else None
    routers = Routers(config)
    for path, described in tqdm(blocks.items(), desc=title, disable=title is None):
        block, own = model.get_submodule(path), parts_at(base.get_submodule(path), described.mlp)
        router, position = routers.next(path, own)
        routed = RoutedMLP.from_parts(
            own,
            [expert_mlp(base, sources, task, path, described.mlp) for task in sources.experts],
            router,
            config.batch_reduce,
            is_batch_first(block),
            task_vector_dtype,
            prune,
            position,
        )
        _install(block, path, described, routed)


def _put_routed_mlps(
    model: nn.Module, blocks: Mapping[str, Family], config: RoutingConfig, task_vector_dtype: torch.dtype | None
) -> None:
    """Put routed MLPs in the places of a model's own MLPs, in place, their weights still to be loaded."""
    routers = Routers(config)
    for path, family in blocks.items():
        block = model.get_submodule(path)
        base = parts_at(block, family.mlp)
        router, position = routers.next(path, base)
        mlp = _empty_routed_mlp(base, router, position, config, task_vector_dtype)
        mlp.batch_first = is_batch_first(block)
        _install(block, path, family, mlp)


def _empty_routed_mlp(
    base: MLPParts,
    router: Router,
    position: tuple[float, ...] | None,
    config: RoutingConfig,
    task_vector_dtype: torch.dtype | None,
) -> RoutedMLP:
    def empty(linear: LinearMap) -> RoutedMap:
        weight, bias, tasks = linear.weight, linear.bias is not None, len(config.tasks)
        size = (*linear_sizes(linear), tasks, bias, weight.dtype, weight.device, task_vector_dtype)
        if not config.prune_ratio:
            return RoutedLinear(*size)
        return SparseRoutedLinear(*size, tasks * kept_entries(weight.numel(), config.prune_ratio))

    return RoutedMLP(
        empty(base.up),
        base.activation,
        empty(base.down),
        router,
        None if base.gate is None else empty(base.gate),
        config.batch_reduce,
        position=position,
    )


def _warn_of_unread_masks(model: nn.Module, blocks: dict[str, Family]) -> None:
    if takes_attention_mask(model) and not any(takes_attention_mask(model.get_submodule(path)) for path in blocks):
        warnings.warn(
            f"padding will vote on the routing weights: {type(model).__name__} takes an attention_mask, but the "
            "forward of its blocks has no argument of that name",
            stacklevel=3,
        )


def _install(block: nn.Module, path: str, family: Family, routed: RoutedMLP) -> None:
    """Put a routed MLP in the place of a block's MLP, and let the block tell it which tokens vote."""
    block.set_submodule(family.mlp.replaced, routed)
    for bypassed in family.mlp.bypassed:
        block.set_submodule(bypassed, nn.Identity())
    if getattr(block, "chunk_size_feed_forward", 0):
        warnings.warn(
            f"chunk_size_feed_forward is set to 0 in {type(block).__name__}: a router must see whole samples",
            stacklevel=3,
        )
        setattr(block, "chunk_size_feed_forward", 0)  # noqa: B010 - an attribute that nn.Module does not declare
    routed_block = cast("RoutedBlock", block)
    routed_block.__class__ = cast("type[RoutedBlock]", specialise(type(block), RoutedBlock))
    routed_block.routed_name = path


def _finish(model: nn.Module, config: RoutingConfig) -> RoutedModule:
    """Freeze everything but the routers and give the model the class of a routed model."""
    model.requires_grad_(False)
    for router in routers_of(model):
        router.requires_grad_(True)
    return as_routed(model, config)


def as_routed(model: nn.Module, config: RoutingConfig) -> RoutedModule:
    """Give a model that holds routed blocks the class of a routed model."""
    routed = cast("RoutedModule", model)
    routed.__class__ = cast("type[RoutedModule]", specialise(type(model), _mixin(model, config)))
    routed.routing_config = config
    return routed


def _mixin(model: nn.Module, config: RoutingConfig) -> type[RoutedModule]:
    if not isinstance(model, PreTrainedModel):
        return RoutedModule
    writes_after_a_prompt = model.can_generate() and not model.config.is_encoder_decoder
    return RoutedCausalModel if writes_after_a_prompt and config.reads == "input" else RoutedModel
