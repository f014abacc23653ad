"""Searching the numbers of a method: every point of a grid is scored on validation data, and the best is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm.auto import tqdm

Made = TypeVar("Made")
Point = dict[str, float]  # by the name of an option, its value


@dataclass(frozen=True)
class Sweep(Generic[Made]):
    """What a sweep found.

    Attributes:
        best: the point of the highest score; of equal ones the first.
        scores: every point with its score, in the order in which they were tried.
        model: what was made at the best point.
    """

    best: Point
    scores: list[tuple[Point, float]]
    model: Made


def sweep(
    make: Callable[..., Made],
    grid: Mapping[str, Sequence[float]],
    score: Callable[[Made], float],
    progress: bool = True,
) -> Sweep[Made]:
    """Try every point of a grid and keep the best.

    At any time there are two models at most: the best so far, and the one that is tried.

    Args:
        make: called with one value of each option as keyword arguments; makes a model.
        grid: by option, the values to try. The last option varies fastest.
        score: of a model, the higher the better. It must read validation data and never test data, or the test says
            nothing any more.
        progress: whether to show a progress bar.

    Returns:
        The best point, its model, and every point's score.

    Raises:
        TypeError: `grid` is no mapping from names to sequences of numbers.
        ValueError: there is no option, an option has no value or one that is not finite, or a score is NaN.
    """
    points = grid_points(grid)
    scores: list[tuple[Point, float]] = []
    kept: list[tuple[float, Point, Made]] = []  # the best so far
    for point in tqdm(points, desc="sweep", disable=not progress):
        model = make(**point)
        value = _checked_score(score(model), point)
        scores.append((point, value))
        if not kept or value > kept[0][0]:
            kept = [(value, point, model)]
        del model  # before the next one is made
    ((_, best, best_model),) = kept
    return Sweep(best, scores, best_model)


def grid_points(grid: Mapping[str, Sequence[float]]) -> list[Point]:
    """Return every combination of the values of a grid, the last option varying fastest.

    Raises:
        TypeError, ValueError: as in `sweep`, of the grid.
    """
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid must map names of options to the values to try; found {type(grid).__name__}")
    if not grid:
        raise ValueError("grid must hold at least one option; found none")
    for name, values in grid.items():
        _check_values(name, values)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _check_values(name: str, values: Sequence[float]) -> None:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise TypeError(f"grid[{name!r}] must be a list of numbers; found {values!r}")
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"grid[{name!r}] must hold at least one number, and finite ones; found {list(values)}")


def _checked_score(value: float, point: Point) -> float:
    value = float(value)
    if math.isnan(value):
        raise ValueError(f"score must give a number for every point of the grid; found NaN at {point}")
    return value
