"""The figures of fronts, side by side: how much they dominate, how well they are steered, and one model of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from wemoe.pareto.fronts import Front, Point
from wemoe.pareto.metrics import controllability, hypervolume, non_uniformity
from wemoe.text_tables import aligned


@dataclass(frozen=True)
class Figures:
    """What is told of a front.

    Attributes:
        points: how many models it has.
        loss_hypervolume: volume between its validation losses and those of a reference.
        accuracy_hypervolume: volume between its test accuracies and 0.
        controllability: Spearman correlation of a task's preference and its negated validation loss, mean over tasks;
            None where there are too few preferences for ranks to say anything, or none.
        equal_accuracy: mean test accuracy over tasks at equal preference; None where that was not measured.
        non_uniformity: how far losses are from the ray of their preference, mean over the preferences that leave out no
            task; None where there is none.
    """

    points: int
    loss_hypervolume: float
    accuracy_hypervolume: float
    controllability: float | None
    equal_accuracy: float | None
    non_uniformity: float | None


def figures_of(front: Front, reference: Tensor) -> Figures:
    """Compute the figures of a front.

    Args:
        front: with one point at least.
        reference: [T], losses up to which volume is counted: those of the pre-trained model.

    Raises:
        ValueError: a number is not finite, or a loss is negative.
    """
    accuracies = front.accuracies
    steered = [point for point in front.points if point.preference is not None]
    return Figures(
        points=len(front.points),
        loss_hypervolume=hypervolume(front.losses, reference, maximise=False),
        accuracy_hypervolume=hypervolume(accuracies, torch.zeros_like(accuracies[0]), maximise=True),
        controllability=_control(front, steered),
        equal_accuracy=_equal_accuracy(front, steered),
        non_uniformity=_non_uniformity(front, steered),
    )


def table(figures: Mapping[str, Figures]) -> str:
    """Lay figures out as text, a front in each line."""
    head = ["", "models", "HV losses", "HV accuracy", "control", "equal, %", "non-unif."]
    rows = [head] + [[label, *_cells(found)] for label, found in figures.items()]
    return "\n".join(aligned(rows, gap="  "))


def _cells(found: Figures) -> list[str]:
    return [
        str(found.points),
        f"{found.loss_hypervolume:.4g}",
        f"{found.accuracy_hypervolume:.4f}",
        "-" if found.controllability is None else f"{found.controllability:.2f}",
        "-" if found.equal_accuracy is None else f"{100 * found.equal_accuracy:.1f}",
        "-" if found.non_uniformity is None else f"{found.non_uniformity:.4f}",
    ]


def _control(front: Front, steered: Sequence[Point]) -> float | None:
    if len(steered) <= len(front.tasks):  # no more than one for each task: ranks are those of the tasks themselves
        return None
    chosen = Front(front.label, front.tasks, tuple(steered))
    return mean(controllability(chosen.preferences, -chosen.losses))


def _equal_accuracy(front: Front, steered: Sequence[Point]) -> float | None:
    share = 1 / len(front.tasks)
    for point in steered:
        if all(math.isclose(weight, share, abs_tol=1e-6) for weight in point.preference or ()):  # rounded to fp32
            return mean(point.accuracies.values())
    return None


def _non_uniformity(front: Front, steered: Sequence[Point]) -> float | None:
    inner = [point for point in steered if all(point.preference or ())]
    if not inner:
        return None
    chosen = Front(front.label, front.tasks, tuple(inner))
    return mean(map(non_uniformity, chosen.losses, chosen.preferences))
