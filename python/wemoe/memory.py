"""What a routed model will take in memory, before it is made or loaded."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from wemoe.checkpoints import read_checkpoint
from wemoe.config import RoutingConfig, check_dtype
from wemoe.footprint import Memory, measure, measure_upcycling
from wemoe.loading import routed_skeleton, set_dtypes, stored_slots
from wemoe.models import Family, find_blocks
from wemoe.models.blocks import unknown_families
from wemoe.routed_classes import RoutedModule
from wemoe.routed_methods import Modules, RoutedMethod, choose
from wemoe.safe_tensors import StoredTensors
from wemoe.upcycling import skeleton_after_upcycling


def estimate_memory(
    source: nn.Module | str | os.PathLike[str],
    tasks: int | None = None,
    *,
    method: str = "wemoe",
    router_hidden_layers: int = 2,
    modules: Modules = "mlp",
    share_router: bool | None = None,
    prune_ratio: float | None = None,
    position_encoding: bool = False,
    dtype: torch.dtype | None = None,
    task_vector_dtype: torch.dtype | None = None,
    base_model: nn.Module | None = None,
    family: Family | None = None,
) -> Memory:
    """Estimate what upcycling a base, or loading a checkpoint, takes; no weight is read, and none allocated.

    Args:
        source: a base, which may be on the meta device where its family is known or given; the folder of a
            checkpoint; or a routed model, which is measured as it is.
        tasks: T, the number of experts; for a base.
        method: as `upcycle` takes it, like the five that follow; for a base. What a PWEMoE keeps merged between two
            forwards at one preference, once its routed modules, comes on top.
        router_hidden_layers: depth of the routers, 0, 1 or 2.
        modules: what a PWEMoE routes.
        share_router: whether all MLPs have one router.
        prune_ratio: share of the entries of task vectors that is removed. Entries that are zero already take nothing,
            and so a pruned model may be smaller than was estimated.
        position_encoding: whether a shared router reads which block is asking.
        dtype: as `from_pretrained` takes it; for a checkpoint.
        task_vector_dtype: as `upcycle` and `from_pretrained` take it.
        base_model: as `from_pretrained` takes it; for a checkpoint.
        family: as `upcycle` takes it; for a base.

    Returns:
        Bytes by part, in all and at the peak. What Python, torch and the forward pass take comes on top.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks its configuration or weights.
        ValueError: the source is no base that can be upcycled and no checkpoint, or an argument is out of its range.
    """
    check_dtype("dtype", dtype)
    check_dtype("task_vector_dtype", task_vector_dtype)
    if isinstance(source, RoutedModule):
        return measure(source)
    if isinstance(source, nn.Module):
        chosen = choose(method, share_router, prune_ratio, position_encoding, modules)
        chosen.check(router_hidden_layers)
        config = _plan(source, tasks, method, chosen, router_hidden_layers, family)
        return measure_upcycling(skeleton_after_upcycling(source, config, task_vector_dtype))
    checkpoint = read_checkpoint(Path(source))
    model = routed_skeleton(checkpoint, base_model)
    with StoredTensors(checkpoint.weight_files()) as stored:
        set_dtypes(stored_slots(model, stored.contents, checkpoint), stored.contents, dtype, task_vector_dtype)
    return measure(model)


def _plan(
    base_model: nn.Module,
    tasks: int | None,
    method: str,
    chosen: RoutedMethod,
    router_hidden_layers: int,
    family: Family | None,
) -> RoutingConfig:
    if tasks is None or tasks < 1:
        raise ValueError(f"tasks must be the number of experts, at least 1; found {tasks!r}")
    return RoutingConfig(
        method=method,  # type: ignore[arg-type]  # checked by `choose`
        **asdict(chosen),
        base_class=type(base_model).__name__,
        tasks=tuple(f"task_{t}" for t in range(tasks)),
        init_lambda=0.0,
        router_hidden_layers=router_hidden_layers,  # type: ignore[arg-type]  # checked here, by pydantic
        batch_reduce=False,
        families=_families(base_model, family),
    )


def _families(base_model: nn.Module, family: Family | None) -> tuple[Family, ...]:
    try:
        return unknown_families(find_blocks(base_model, () if family is None else (family,)))
    except NotImplementedError as error:  # torch's, for tensors without memory
        raise ValueError(
            f"source must have weights, since {type(base_model).__name__} is of no known family and its MLPs are "
            "found by what they compute; found weights on the meta device. Describe the family with family="
        ) from error
