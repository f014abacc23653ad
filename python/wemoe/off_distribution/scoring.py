"""What both experiments share: which rows they have, how a row is scored, and what decides the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from wemoe.comparison.choosing import CompareSettings
from wemoe.comparison.rows import Row
from wemoe.comparison.running import mean
from wemoe.info import collect
from wemoe.suites import Suite

DEFAULT_ROWS = (
    "pretrained",
    "individual",
    "task_arithmetic",
    "ties",
    "adamerging_match",
    "adamerging_entropy",
    "wemoe_match",
    "wemoe_entropy",
)


def chosen_rows(settings: CompareSettings) -> dict[str, Row]:
    """Return the rows of an experiment: those of the settings, or `DEFAULT_ROWS` where they name none.

    Raises:
        ValueError: a row or an option is unknown.
    """
    if settings.methods is None:
        settings = replace(settings, methods={name: {} for name in DEFAULT_ROWS})
    return settings.rows()


def scored(suite: Suite, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Score models on test data.

    Args:
        suite: with the tasks.
        models: by task, the model that serves it.

    Returns:
        By task, the `accuracy` and, under `predictions`, how often each class is predicted [C]; the `average` accuracy.
    """
    found = {task: suite.predictions(model, [task])[task] for task, model in models.items()}
    accuracy = {task: predicted.accuracy for task, predicted in found.items()}
    predictions = {task: predicted.counts for task, predicted in found.items()}
    return {"accuracy": accuracy, "average": mean(accuracy), "predictions": predictions}


def described(
    suite: Suite, settings: CompareSettings, rows: Mapping[str, Row], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what decides an experiment, and so stands in its results, and its environment."""
    return {
        "origin": dict(origin),
        "tasks": list(suite.tasks),
        "seed": settings.seed,
        "steps": settings.steps,
        "settings": {name: dict(row.options) for name, row in rows.items()},
        "environment": collect(),
    }
