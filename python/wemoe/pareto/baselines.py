"""Fronts that nobody trains: task vectors weighted by a preference, a grid of coefficients, the models at hand.

They are what a routed model's front is judged by. Each of their models is made by task arithmetic, measured and dropped
before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from wemoe.evaluation import Measured, mean_losses
from wemoe.merging import task_arithmetic
from wemoe.pareto.fronts import Front, Point
from wemoe.pareto.metrics import hypervolume
from wemoe.suites import Suite
from wemoe.sweeping import Sweep, grid_points, sweep

Measure = Callable[[nn.Module], Measured]
Losses = Callable[[nn.Module], Mapping[str, float]]
Preference = tuple[float, ...]

COEFFICIENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SCALINGS = (0.6, 0.8, 1.0, 1.3, 1.6, 2.0)


def task_arithmetic_front(
    suite: Suite,
    preferences: Tensor,
    scaling: float = 1.0,
    *,
    measure: Measure | None = None,
    label: str = "task arithmetic",
    progress: bool = True,
) -> Front:
    """Measure theta_0 + s * sum_t r_t tau_t at several preferences r (arXiv 2212.04089, with weights).

    Args:
        suite: base, experts and tasks; untouched.
        preferences: [K, T], in the order of the suite's experts (`simplex_grid`).
        scaling: s. At 1, a preference for one task alone gives that task's expert.
        measure: of a model; the suite's own `measure` by default.
        label: of the front.
        progress: whether to show a progress bar.

    Returns:
        The front, one point for each preference, in their order.

    Raises:
        ValueError: preferences are not [K, T], or `scaling` is not finite.
    """
    named = _by_task(suite, preferences)
    merged = ((tuple(weights.values()), _merged(suite, weights, scaling)) for weights in named)
    return _front(suite, merged, len(named), measure, label, progress)


def search_scaling(
    suite: Suite,
    preferences: Tensor,
    scalings: Sequence[float] = SCALINGS,
    *,
    reference: Tensor | None = None,
    losses: Losses | None = None,
    progress: bool = True,
) -> Sweep[Tensor]:
    """Search the scaling at which the front of task arithmetic has the largest hypervolume of losses.

    Args:
        suite: base, experts and tasks; untouched.
        preferences: [K, T], in the order of the suite's experts; a few are enough.
        scalings: to try.
        reference: [T], losses that bound the hypervolume; by default the worst of base and experts in each task.
        losses: of a model by task; on all validation data by default.
        progress: whether to show a progress bar.

    Returns:
        The best point, `{"scaling": s}`, the hypervolume of each, and the losses [K, T] of the best.

    Raises:
        TypeError, ValueError: as of `wemoe.sweep`, or preferences are not [K, T].
    """
    read = _validation_losses(suite) if losses is None else losses
    named = _by_task(suite, preferences)

    def row(model: nn.Module) -> list[float]:
        found = read(model)
        return [found[task] for task in suite.experts]

    def table(scaling: float) -> Tensor:
        return torch.tensor([row(_merged(suite, weights, scaling)) for weights in named], dtype=torch.float64)

    def worst() -> Tensor:
        rows = [row(model) for model in (suite.base, *suite.experts.values())]
        return torch.tensor(rows, dtype=torch.float64).amax(dim=0)

    bound = worst() if reference is None else reference
    return sweep(
        table, {"scaling": scalings}, lambda found: hypervolume(found, bound, maximise=False), progress=progress
    )


def coefficient_grid_front(
    suite: Suite,
    coefficients: Sequence[float] = COEFFICIENTS,
    *,
    measure: Measure | None = None,
    label: str = "coefficient grid",
    progress: bool = True,
) -> Front:
    """Measure theta_0 + sum_t lambda_t tau_t for every combination of coefficients: K = len(coefficients) ** T models.

    Args:
        suite: base, experts and tasks; untouched.
        coefficients: the values that each lambda_t takes.
        measure: of a model; the suite's own `measure` by default.
        label: of the front.
        progress: whether to show a progress bar.

    Returns:
        The front, the last task's coefficient varying fastest. Its points have no preference.

    Raises:
        TypeError, ValueError: `coefficients` are not finite numbers, or there is none.
    """
    grid = grid_points(dict.fromkeys(suite.experts, coefficients))
    return _front(suite, ((None, _merged(suite, point, 1.0)) for point in grid), len(grid), measure, label, progress)


def individual_front(
    suite: Suite, *, measure: Measure | None = None, label: str = "individual models", progress: bool = True
) -> Front:
    """Measure every expert on every task; the point of task t's expert has the preference for t alone.

    Arguments are those of `task_arithmetic_front`.
    """
    tasks = list(suite.experts)
    models = ((tuple(float(task == own) for task in tasks), suite.experts[own]) for own in tasks)
    return _front(suite, models, len(tasks), measure, label, progress)


def base_front(suite: Suite, *, measure: Measure | None = None, label: str = "pre-trained") -> Front:
    """Measure the base, a front of one point without a preference; arguments are those of `task_arithmetic_front`."""
    return _front(suite, [(None, suite.base)], 1, measure, label, progress=False)


def _front(
    suite: Suite,
    models: Iterable[tuple[Preference | None, nn.Module]],
    count: int,
    measure: Measure | None,
    label: str,
    progress: bool,
) -> Front:
    read = suite.measure if measure is None else measure
    points = []
    for preference, model in tqdm(models, total=count, desc=f"evaluate ({label})", disable=not progress):
        measured = read(model)
        points.append(Point(preference, measured.losses, measured.accuracies))
    return Front(label, tuple(suite.experts), tuple(points))


def _merged(suite: Suite, weights: Mapping[str, float], scaling: float) -> nn.Module:
    return task_arithmetic(suite.base, suite.experts, scaling=scaling, weights=weights)


def _by_task(suite: Suite, preferences: Tensor) -> list[dict[str, float]]:
    T = len(suite.experts)
    if preferences.dim() != 2 or preferences.shape[1] != T:
        raise ValueError(f"preferences must be [K, {T}], one in each row; found shape {tuple(preferences.shape)}")
    return [dict(zip(suite.experts, row, strict=True)) for row in preferences.tolist()]


def _validation_losses(suite: Suite) -> Losses:
    def read(model: nn.Module) -> dict[str, float]:
        batches: Any = suite.batches(list(suite.experts), part="validation")
        return mean_losses(model, batches, suite.loss)

    return read
