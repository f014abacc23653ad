"""What both experiments share: which rows they have, how a row is scored, and what an earlier run left."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from wemoe.comparison.choosing import CompareSettings
from wemoe.comparison.rows import Row
from wemoe.comparison.running import mean
from wemoe.files import write_text
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


def former_results(path: Path, results: Mapping[str, Any], to_come: Collection[str]) -> dict[str, Any] | None:
    """Return what an earlier run wrote, if all that decided it is the same as in these results.

    Args:
        path: the file.
        results: of the new run, before any work.
        to_come: the keys of what the work gives.
    """
    if not path.exists():
        return None
    former: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same: dict[str, Any] = json.loads(json.dumps(results))
    return former if all(former.get(key) == value for key, value in same.items() if key not in to_come) else None


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON; the file appears whole."""
    write_text(path, json.dumps(results, indent=2) + "\n")
