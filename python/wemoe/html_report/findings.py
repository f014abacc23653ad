"""What a folder of results holds, read and brought into one form for the sections of the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wemoe.routing_tables import RoutingTables

REQUIRED = {  # by file, what it must hold
    "comparison.json": ("tasks", "rows", "seed"),
    "evaluation.json": ("tasks", "rows", "seeds", "runs"),
    "unseen.json": ("tasks", "pairs", "mean"),
    "corruptions.json": ("tasks", "corruptions"),
}
RECOMMENDED_OBJECTIVE, PUBLISHED_OBJECTIVE = "match", "entropy"
RECOMMENDED_ROW = f"wemoe_{RECOMMENDED_OBJECTIVE}"
REFERENCES = ("pretrained", "individual")  # rows that merge nothing


@dataclass(frozen=True)
class Figure:
    """A number, with its spread over seeds where there are several."""

    mean: float | None
    spread: float | None = None


@dataclass(frozen=True)
class Row:
    """The accuracies of one way to serve all tasks.

    Attributes:
        name: in the files.
        label: of the method, in tables.
        kind: `reference`, `static` or `learned`.
        objective: that its adaptation minimises, None without one.
        accuracy: by task.
        average: over the tasks.
        normalised: mean of the accuracies divided by the experts'.
    """

    name: str
    label: str
    kind: str
    objective: str | None
    accuracy: Mapping[str, Figure]
    average: Figure
    normalised: Figure

    @property
    def title(self) -> str:
        """Label and objective."""
        return self.label if self.objective is None else f"{self.label} ({self.objective})"


@dataclass(frozen=True)
class Findings:
    """The results of a folder.

    Attributes:
        comparison: all methods in one run: of the folder itself, else the first of the evaluation's runs.
        evaluation: all methods over several seeds.
        unseen: tasks that took no part in merging.
        corruptions: corrupted images.
    """

    comparison: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    unseen: Mapping[str, Any] | None
    corruptions: Mapping[str, Any] | None

    @property
    def files(self) -> list[Mapping[str, Any]]:
        """What is there, the most telling first."""
        held = (self.evaluation, self.comparison, self.unseen, self.corruptions)
        return [results for results in held if results is not None]

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the suite was made from, by the configuration."""
        return next((results["origin"] for results in self.files if results.get("origin")), {})

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the results."""
        return list(self.files[0]["tasks"])

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The accuracies of all rows, over seeds where they were run over seeds."""
        if self.evaluation is not None:
            return {name: _averaged_row(name, row) for name, row in self.evaluation["rows"].items()}
        if self.comparison is not None:
            return {name: _single_row(name, row) for name, row in self.comparison["rows"].items()}
        return {}

    @property
    def costs(self) -> Mapping[str, Any]:
        """By row, what one run has measured."""
        return {} if self.comparison is None else self.comparison["rows"]

    def title(self, name: str) -> str:
        """The title of a row, its name where no file tells more."""
        return self.rows[name].title if name in self.rows else name

    def class_of(self, name: str) -> str | None:
        """How the line of a row is marked in tables: as a reference, as the recommended one, or not at all."""
        if name in REFERENCES:
            return "reference"
        recommended = RECOMMENDED_ROW if self.recommended is None else self.recommended.name
        return "chosen" if name == recommended else None

    @property
    def best(self) -> Row | None:
        """The merge with the highest average."""
        return _best(row for row in self.rows.values() if row.kind != "reference")

    @property
    def best_static(self) -> Row | None:
        """The merge into a plain model, without adaptation, that has the highest average."""
        return _best(row for row in self.rows.values() if row.kind == "static")

    @property
    def recommended(self) -> Row | None:
        """The WEMoE with the recommended objective; where it was not run, the best of its kin."""
        kin = [row for row in self.rows.values() if is_recommended(row.objective) and "WEMoE" in row.label]
        return self.rows.get(RECOMMENDED_ROW) or _best(kin)

    @property
    def published(self) -> Row | None:
        """The same model with the published objective."""
        row = self.recommended
        return None if row is None else self.rows.get(row.name.replace(RECOMMENDED_OBJECTIVE, PUBLISHED_OBJECTIVE))

    @property
    def adamerging(self) -> Row | None:
        """The best AdaMerging with the recommended objective."""
        kin = (row for row in self.rows.values() if row.label.startswith("AdaMerging"))
        return _best(row for row in kin if is_recommended(row.objective))

    @cached_property
    def routing(self) -> dict[str, RoutingTables]:
        """By routed row, its routing weights; the recommended row first."""
        tables = {name: row["routing"] for name, row in self.costs.items() if row.get("routing")}
        first = self.recommended.name if self.recommended else ""
        return {name: RoutingTables.from_dict(tables[name]) for name in sorted(tables, key=lambda name: name != first)}


def is_recommended(objective: str | None) -> bool:
    """Whether an objective is the one that the project recommends."""
    return objective == RECOMMENDED_OBJECTIVE


def read_findings(folder: str | os.PathLike[str]) -> Findings:
    """Read the results that a folder holds.

    Raises:
        FileNotFoundError: it holds none.
        NotADirectoryError: it is no folder.
        ValueError: a file is damaged, or is something else.
    """
    path = Path(folder)
    if not path.is_dir():
        raise NotADirectoryError(f"a report is made of a folder of results; found none at {str(path)!r}")
    held = {name: _read(path / name) if (path / name).is_file() else None for name in REQUIRED}
    if not any(held.values()):
        wanted = ", ".join(REQUIRED)
        raise FileNotFoundError(f"{str(path)!r} must hold results: at least one of {wanted}; found none of them")
    comparison, evaluation, unseen, corruptions = held.values()
    if comparison is None and evaluation is not None:
        runs = [path / run for run in evaluation["runs"].values()]
        comparison = next((_read(run, "comparison.json") for run in runs if run.is_file()), None)
    return Findings(comparison, evaluation, unseen, corruptions)


def _read(path: Path, kind: str | None = None) -> Mapping[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must be JSON; {error}") from error
    required = REQUIRED[kind or path.name]
    missing = [key for key in required if not isinstance(held, dict) or key not in held]
    if missing:
        raise ValueError(f"{str(path)!r} must hold {', '.join(required)}; missing: {', '.join(missing)}")
    results: dict[str, Any] = held
    return results


def _averaged_row(name: str, row: Mapping[str, Any]) -> Row:
    accuracy = {task: Figure(**figure) for task, figure in row["accuracy"].items()}
    average, normalised = Figure(row["mean"], row["spread"]), Figure(**row["normalised"])
    return Row(name, row["label"], row["kind"], row["objective"], accuracy, average, normalised)


def _single_row(name: str, row: Mapping[str, Any]) -> Row:
    accuracy = {task: Figure(value) for task, value in row["accuracy"].items()}
    average, normalised = Figure(row["average"]), Figure(row["normalised"])
    return Row(name, row["label"], row["kind"], row["objective"], accuracy, average, normalised)


def _best(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=lambda row: row.average.mean or 0.0, default=None)
