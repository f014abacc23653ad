"""The fronts that a configuration asks for: that of a model at a grid of preferences, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from wemoe.evaluation import Measured, mean_losses
from wemoe.merge_config import FineTuned, FrontConfig
from wemoe.pareto.baselines import (
    base_front,
    coefficient_grid_front,
    individual_front,
    search_scaling,
    task_arithmetic_front,
)
from wemoe.pareto.fronts import Front, Point, evaluate
from wemoe.pareto.full_model import FULL_MODEL, fine_tune_together
from wemoe.pareto.rays import equal_weights, simplex_grid
from wemoe.routed_classes import RoutedModule
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite
from wemoe.task_config import Part

Measure = Callable[[nn.Module], Measured]

COARSE_POINTS, SEARCH_SAMPLES = 3, 100  # of preferences and of each task, that a scaling is searched on


def preferences_for(tasks: int, points: int) -> Tensor:
    """Return a grid of preferences [K, T] with equal preference in it: at the end, where the grid does not have it."""
    grid, equal = simplex_grid(tasks, points), equal_weights(tasks)
    is_there = torch.isclose(grid, equal, atol=1e-6).all(dim=1).any()  # the grid is rounded to fp32
    return grid if is_there else torch.cat([grid, equal.unsqueeze(0)])


def check_installed(config: FrontConfig) -> None:
    """Check, before any work, that what the baselines of a configuration need is installed.

    Raises:
        ImportError: it is not.
    """
    for name in config.pareto.fine_tuned:
        FULL_MODEL[name]()


def measured_front(config: FrontConfig, suite: Suite, model: RoutedModule, watch: Stopwatch, progress: bool) -> Front:
    """Measure a model at the preferences of a configuration."""
    tasks = len(suite.experts)
    preferences = preferences_for(tasks, config.pareto.points_for(tasks))
    label = f"PWEMoE-{config.parameters.scalarization.upper()}"
    with watch.stage(f"front of {label}"):
        return evaluate(model, _measure(config, suite), preferences, label=label, progress=progress)


def baseline_fronts(
    config: FrontConfig, suite: Suite, loaded: Suite, watch: Stopwatch, progress: bool
) -> tuple[Front, ...]:
    """Measure the baselines of a configuration, then the experts, then the base.

    Args:
        config: says which.
        suite: what is measured on, and what the scaling of task arithmetic is searched on.
        loaded: as it was loaded, with the training data that experts were fine-tuned on.
        watch: tells of each baseline.
        progress: whether to show progress bars.
    """
    fronts, measure = [], _measure(config, suite)
    if "static" in config.pareto.baselines:
        fronts.append(_task_arithmetic(config, suite, watch, progress))
    if "grid" in config.pareto.baselines:
        with watch.stage("grid of coefficients"):
            fronts.append(coefficient_grid_front(suite, measure=measure, progress=progress))
    fronts += [_fine_tuned(config, name, measure, loaded, watch, progress) for name in config.pareto.fine_tuned]
    with watch.stage("experts and base"):
        fronts.append(individual_front(suite, measure=measure, progress=progress))
        fronts.append(base_front(suite, measure=measure))
    return tuple(fronts)


def _measure(config: FrontConfig, suite: Suite) -> Measure:
    return partial(suite.measure, samples=config.pareto.samples)


def _task_arithmetic(config: FrontConfig, suite: Suite, watch: Stopwatch, progress: bool) -> Front:
    """Measure task arithmetic weighted by the preference, scaled as is best on data that may be chosen by."""
    tasks = len(suite.experts)
    part: Part = "train" if config.parameters.train_on == "validation" else "validation"  # which `held_out` made of it
    samples = min(config.pareto.samples or SEARCH_SAMPLES, SEARCH_SAMPLES)

    def losses(model: nn.Module) -> Mapping[str, float]:
        return mean_losses(model, suite.batches(part=part, samples=samples), suite.loss)

    with watch.stage("scaling of task arithmetic"):
        coarse = preferences_for(tasks, COARSE_POINTS if tasks <= 3 else 2)
        scaling = search_scaling(suite, coarse, losses=losses, progress=progress).best["scaling"]
    label = f"task arithmetic x {scaling:g}"
    with watch.stage(label):
        preferences = preferences_for(tasks, config.pareto.points_for(tasks))
        measure = _measure(config, suite)
        return task_arithmetic_front(suite, preferences, scaling, measure=measure, label=label, progress=progress)


def _fine_tuned(
    config: FrontConfig, name: FineTuned, measure: Measure, loaded: Suite, watch: Stopwatch, progress: bool
) -> Front:
    """Fine-tune the whole base on all tasks at once, at equal preference, and measure it."""
    tasks = tuple(loaded.experts)
    label = f"fine-tuned together, {name.upper()}"
    how = config.pareto.fine_tuning
    streams = loaded.labelled_streams(how.batch_size, config.seed)
    with watch.stage(label):
        model, _ = fine_tune_together(
            loaded.base,
            {task: streams[task] for task in tasks},
            loaded.loss,
            scalarization=name,
            steps=how.steps,
            learning_rate=how.learning_rate,
            seed=config.seed,
            progress=progress,
        )
        measured = measure(model)
    preference = None if name == "mgda" else tuple(equal_weights(len(tasks)).tolist())  # MGDA reads none
    return Front(label, tasks, (Point(preference, measured.losses, measured.accuracies),))
