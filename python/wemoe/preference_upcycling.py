"""Upcycling for a preference: the modules of a model become layers that a preference merges (PWEMoE)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from tqdm import tqdm

from wemoe.config import RoutingConfig
from wemoe.merging.rules import Sources
from wemoe.merging.running import expert_part
from wemoe.models import Family
from wemoe.models.blocks import is_batch_first
from wemoe.preference_layers import PreferenceLayer
from wemoe.preference_parts import Part, find_parts
from wemoe.preference_routers import Preference, PreferenceRouter

Blocks = Mapping[str, Family]


def route_by_preference(
    model: nn.Module,
    base: nn.Module,
    sources: Sources,
    blocks: Blocks,
    config: RoutingConfig,
    task_vector_dtype: torch.dtype | None,
    title: str | None,
) -> None:
    """Put layers of the base's modules and the experts' task vectors into a merged model, in place."""
    parts = find_parts(base, blocks, config.modules)
    with tqdm(total=sum(len(part.paths) for part in parts), desc=title, disable=title is None) as bar:
        for path, router, batch_first in _with_routers(base, parts, config):
            experts = [expert_part(base, sources, task, path) for task in sources.experts]
            own = base.get_submodule(path)
            model.set_submodule(
                path, PreferenceLayer.from_modules(own, experts, router, batch_first, task_vector_dtype)
            )
            bar.update()


def put_preference_layers(
    model: nn.Module, blocks: Blocks, config: RoutingConfig, task_vector_dtype: torch.dtype | None
) -> None:
    """Put layers around a model's own modules, in place, their task vectors still to be loaded."""
    parts = find_parts(model, blocks, config.modules)
    for path, router, batch_first in list(_with_routers(model, parts, config)):
        own, tasks = model.get_submodule(path), len(config.tasks)
        model.set_submodule(path, PreferenceLayer.around(own, tasks, router, batch_first, task_vector_dtype))


def _with_routers(
    base: nn.Module, parts: list[Part], config: RoutingConfig
) -> Iterator[tuple[str, PreferenceRouter, bool]]:
    """Yield the path of each module to be routed, its router, and whether the batch is its first dimension."""
    tasks = len(config.tasks)
    preference = Preference(tasks)
    for part in parts:
        device = next(base.get_submodule(part.paths[0]).parameters()).device
        router = PreferenceRouter(preference, tasks, config.init_lambda, config.router_hidden_layers).to(device)
        batch_first = part.block is None or is_batch_first(base.get_submodule(part.block))
        for path in part.paths:
            yield path, router, batch_first
