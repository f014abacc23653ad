"""A front: what models, or one model at several preferences, lose and get right on every task."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from wemoe.evaluation import Measured
from wemoe.files import write_text
from wemoe.modes import evaluating
from wemoe.preferences import check_preference, restoring_preference, set_preference, steered_backbone


@dataclass(frozen=True)
class Point:
    """One model of a front.

    Attributes:
        preference: how much each task counts, in the order of the front's tasks; None where the model has none.
        losses: by task, on validation data.
        accuracies: by task, in [0, 1], on test data.
    """

    preference: tuple[float, ...] | None
    losses: dict[str, float]
    accuracies: dict[str, float]


@dataclass(frozen=True)
class Front:
    """Models that are measured alike.

    Attributes:
        label: what it is called in tables and charts.
        tasks: T names, in the order of preferences.
        points: K of them.
    """

    label: str
    tasks: tuple[str, ...]
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        for point in self.points:
            self._check(point)

    @property
    def preferences(self) -> Tensor:
        """Preferences [K, T], fp64.

        Raises:
            ValueError: a point has no preference.
        """
        found = [point.preference for point in self.points if point.preference is not None]
        if len(found) < len(self.points):
            raise ValueError(
                f"every point of front {self.label!r} must have a preference; found {len(self.points) - len(found)} "
                f"of {len(self.points)} without"
            )
        return torch.tensor(found, dtype=torch.float64).reshape(-1, len(self.tasks))

    @property
    def losses(self) -> Tensor:
        """Validation losses [K, T], fp64."""
        return self._table([point.losses for point in self.points])

    @property
    def accuracies(self) -> Tensor:
        """Test accuracies [K, T], fp64."""
        return self._table([point.accuracies for point in self.points])

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` makes it of again: lists, mappings, strings and numbers."""
        return {
            "label": self.label,
            "tasks": list(self.tasks),
            "points": [
                {
                    "preference": None if point.preference is None else list(point.preference),
                    "losses": dict(point.losses),
                    "accuracies": dict(point.accuracies),
                }
                for point in self.points
            ],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Front:
        """Make a front of what `as_dict` gives.

        Raises:
            KeyError: a part is missing.
            ValueError: a point does not have a number for each task.
        """
        points = [
            Point(
                None if point["preference"] is None else tuple(point["preference"]),
                dict(point["losses"]),
                dict(point["accuracies"]),
            )
            for point in found["points"]
        ]
        return cls(found["label"], tuple(found["tasks"]), tuple(points))

    def _check(self, point: Point) -> None:
        for name, numbers in (("losses", point.losses), ("accuracies", point.accuracies)):
            if numbers.keys() != set(self.tasks):
                raise ValueError(
                    f"{name} of a point of front {self.label!r} must be of its tasks, {list(self.tasks)}; "
                    f"found {list(numbers)}"
                )
        if point.preference is not None and len(point.preference) != len(self.tasks):
            raise ValueError(
                f"a preference of front {self.label!r} must hold one number for each of {len(self.tasks)} tasks; "
                f"found {len(point.preference)}"
            )

    def _table(self, rows: list[dict[str, float]]) -> Tensor:
        numbers = [[row[task] for task in self.tasks] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64).reshape(-1, len(self.tasks))


def evaluate(
    model: nn.Module,
    measure: Callable[[nn.Module], Measured],
    preferences: Tensor,
    label: str = "pwemoe",
    progress: bool = True,
) -> Front:
    """Measure a preference-routed model at several preferences, merging its weights once for each.

    The model is measured in evaluation mode and without gradients; its mode and its preference are restored.

    Args:
        model: made by `wemoe.upcycle(..., method="pwemoe")`.
        measure: of the model at one preference (`Suite.measure`).
        preferences: [K, T], each row on the simplex, in the order of the model's tasks (`simplex_grid`).
        label: of the front.
        progress: whether to show a progress bar.

    Returns:
        The front, one point for each preference, in their order.

    Raises:
        TypeError: the model is not routed by preferences.
        ValueError: a preference is none, or what is measured is not of the model's tasks.
    """
    tasks = tuple(steered_backbone(model).routing_config.tasks)
    if preferences.dim() != 2:
        raise ValueError(f"preferences must be [K, T], one in each row; found shape {tuple(preferences.shape)}")
    checked = check_preference(preferences, tasks)
    points = []
    with restoring_preference(model), evaluating(model), torch.no_grad():
        for preference in tqdm(checked, desc=f"evaluate ({label})", disable=not progress):
            set_preference(model, preference)
            measured = measure(model)
            points.append(Point(_shortest(preference), measured.losses, measured.accuracies))
    return Front(label, tasks, tuple(points))


def write_front_json(
    path: str | os.PathLike[str], fronts: Sequence[Front], summary: Mapping[str, Any] | None = None
) -> None:
    """Write fronts as JSON, which `read_front_json` reads: `fronts`, and `summary` where there is one.

    Args:
        path: of the file; it appears whole.
        fronts: in the order of the file.
        summary: what else is told of them: lists, mappings, strings and finite numbers.

    Raises:
        ValueError: a number is not finite, which JSON has no words for.
    """
    content: dict[str, Any] = {"fronts": [front.as_dict() for front in fronts]}
    if summary is not None:
        content["summary"] = dict(summary)
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_front_json(path: str | os.PathLike[str]) -> list[Front]:
    """Read the fronts of a file that `write_front_json` wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is not such a file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Front.from_dict(front) for front in content["fronts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} must be a file of fronts; found {error!r}") from error


def write_front_csv(path: str | os.PathLike[str], fronts: Sequence[Front]) -> None:
    """Write fronts as a table: a line for each point, with `front`, and for each task its preference, loss, accuracy.

    Args:
        path: of the file; it appears whole.
        fronts: of the same tasks, in the order of the file. A preference that a point has not is left empty.

    Raises:
        ValueError: fronts are of different tasks, or there is none.
    """
    if len({front.tasks for front in fronts}) != 1:
        raise ValueError(f"fronts must be of the same tasks; found {[list(front.tasks) for front in fronts]}")
    tasks = fronts[0].tasks
    kinds = ("preference", "loss", "accuracy")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["front", *(f"{kind}:{task}" for kind in kinds for task in tasks)])
    for front in fronts:
        for point in front.points:
            preference: Sequence[float | str] = point.preference or [""] * len(tasks)
            numbers = [by_task[task] for by_task in (point.losses, point.accuracies) for task in tasks]
            writer.writerow([front.label, *preference, *numbers])
    write_text(path, text.getvalue())


def _shortest(preference: Tensor) -> tuple[float, ...]:
    """Return the shortest decimals that are the same numbers in fp32: 0.1 and not 0.10000000149."""
    return tuple(float(str(np.float32(value))) for value in preference.tolist())
