"""The fronts that a configuration asks for: that of a model at a grid of preferences, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from wemoe.evaluation import Measured, mean_losses
from wemoe.merge_config import FrontConfig
from wemoe.pareto.baselines import (
    base_front,
    coefficient_grid_front,
    individual_front,
    search_scaling,
    task_arithmetic_front,
)
from wemoe.pareto.fronts import Front, evaluate
from wemoe.pareto.rays import simplex_grid
from wemoe.routed_classes import RoutedModule
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite
from wemoe.task_config import Part

Measure = Callable[[nn.Module], Measured]

COARSE_POINTS = 3  # of the grid of preferences that task arithmetic's scaling is searched on


def preferences_for(tasks: int, points: int) -> Tensor:
    """Return a grid of preferences [K, T] with equal preference in it: at the end, where the grid does not have it."""
    grid = simplex_grid(tasks, points)
    equal = torch.full((1, tasks), 1 / tasks)
    is_there = torch.isclose(grid, equal, atol=1e-6).all(dim=1).any()  # the grid is rounded to fp32
    return grid if is_there else torch.cat([grid, equal])


def measured_front(
    config: FrontConfig, model: RoutedModule, measure: Measure, watch: Stopwatch, progress: bool
) -> Front:
    """Measure a model at the preferences of a configuration."""
    tasks = len(model.routing_config.tasks)
    preferences = preferences_for(tasks, config.pareto.points_for(tasks))
    label = f"PWEMoE-{config.parameters.scalarization.upper()}"
    with watch.stage(f"front of {label}"):
        return evaluate(model, measure, preferences, label=label, progress=progress)


def baseline_fronts(
    config: FrontConfig, suite: Suite, measure: Measure, watch: Stopwatch, progress: bool
) -> tuple[Front, ...]:
    """Measure the baselines of a configuration, then the experts, then the base."""
    fronts = []
    if "static" in config.pareto.baselines:
        fronts.append(_task_arithmetic(config, suite, measure, watch, progress))
    if "grid" in config.pareto.baselines:
        with watch.stage("grid of coefficients"):
            fronts.append(coefficient_grid_front(suite, measure=measure, progress=progress))
    with watch.stage("experts and base"):
        fronts.append(individual_front(suite, measure=measure, progress=progress))
        fronts.append(base_front(suite, measure=measure))
    return tuple(fronts)


def _task_arithmetic(config: FrontConfig, suite: Suite, measure: Measure, watch: Stopwatch, progress: bool) -> Front:
    """Measure task arithmetic weighted by the preference, scaled as is best on the data that losses are chosen by."""
    tasks = len(suite.experts)
    part: Part = "train" if config.parameters.train_on == "validation" else "validation"  # which `held_out` made of it

    def losses(model: nn.Module) -> Mapping[str, float]:
        return mean_losses(model, suite.batches(part=part, samples=config.pareto.samples), suite.loss)

    with watch.stage("scaling of task arithmetic"):
        coarse = preferences_for(tasks, COARSE_POINTS if tasks <= 3 else 2)
        scaling = search_scaling(suite, coarse, losses=losses, progress=progress).best["scaling"]
    with watch.stage("task arithmetic"):
        preferences = preferences_for(tasks, config.pareto.points_for(tasks))
        return task_arithmetic_front(
            suite, preferences, scaling, measure=measure, label=f"task arithmetic x {scaling:g}", progress=progress
        )
