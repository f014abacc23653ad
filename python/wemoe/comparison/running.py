"""Running a comparison: each row is searched, made, scored, measured, written down and dropped before the next."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wemoe.adaptation import Adaptation
from wemoe.comparison import tables
from wemoe.comparison.choosing import CompareSettings, check_data
from wemoe.comparison.making import Made, Workshop
from wemoe.comparison.measuring import Cost, count_distinct, inference_cost, measuring
from wemoe.comparison.pictures import draw_pictures
from wemoe.comparison.resuming import former_results
from wemoe.comparison.rows import Row
from wemoe.comparison.scoring import modes_of, score_once
from wemoe.expert_answers import ExpertAnswers
from wemoe.files import check_writable, write_json, write_text
from wemoe.geometry import task_vector_geometry
from wemoe.html_report import write_report
from wemoe.info import collect
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Scores, Suite
from wemoe.sweeping import sweep
from wemoe.task_config import Part

RESULTS = "comparison.json"
DECIDING = ("origin", "seed", "tasks", "environment")  # what rows of an earlier run must share to be kept


@dataclass(frozen=True)
class Built:
    """What a row has made, with the options it was made with.

    Attributes:
        made: the models.
        options: those of the row, the searched ones at their best.
        search: the points that were tried, each with its average validation accuracy; empty without a search.
        cost: of making the models once, adaptation included, the search not.
        search_seconds: what the search took in all.
    """

    made: Made
    options: dict[str, Any]
    search: list[dict[str, float]]
    cost: Cost
    search_seconds: float


def build(row: Row, shop: Workshop) -> Built:
    """Make a row's models, at the best of the searched options on validation data."""
    if not row.grid:
        made, cost = _make(row, shop, row.fixed)
        return Built(made, row.fixed, [], cost, 0.0)
    with measuring() as searching:
        found = sweep(
            lambda **point: _make(row, shop, row.fixed | point),
            row.grid,
            lambda tried: mean(score(shop.suite, tried[0], "validation")),
            progress=False,
        )
    made, cost = found.model
    search = [point | {"validation": value} for point, value in found.scores]
    return Built(made, row.fixed | found.best, search, cost, searching.seconds)


def _make(row: Row, shop: Workshop, options: Mapping[str, Any]) -> tuple[Made, Cost]:
    if row.objective == "match":
        shop.answers.prepare()
    with measuring() as cost:
        made = row.make(shop, **options)
    if row.objective == "match":
        cost.seconds += shop.answers.seconds
    return made, cost


def score(suite: Suite, made: Made, part: Part = "test") -> Scores:
    """Accuracy on every task of the model that serves it."""
    return {task: suite.score(model, [task], part)[task] for task, model in made.models.items()}


def mean(scores: Mapping[str, float]) -> float:
    """Mean over the tasks."""
    return sum(scores.values()) / len(scores)


def normalised(scores: Mapping[str, float], experts: Mapping[str, float]) -> float | None:
    """Mean over the tasks of the accuracy divided by the task's own expert's; None where an expert is never right."""
    if not all(experts.values()):
        return None
    return mean({task: accuracy / experts[task] for task, accuracy in scores.items()})


def compare(
    suite: Suite,
    settings: CompareSettings,
    output: str | os.PathLike[str],
    *,
    watch: Stopwatch,
    origin: Mapping[str, Any],
    resume: bool = False,
) -> dict[str, Any]:
    """Run every row on a suite; write `comparison.json`, `comparison.md`, pictures, and all of it as `report.html`.

    The JSON is written anew after each row, so that an interrupt loses one row at most.

    Args:
        suite: models and tasks.
        settings: rows, seed and steps.
        output: folder of the results.
        watch: tells of each row.
        origin: what the suite was made from, kept in the results.
        resume: keep the rows that the folder holds already, if they were made from the same with the same options.

    Returns:
        What `comparison.json` holds.

    Raises:
        OSError: the output folder can't be written (checked before any work).
        ValueError: a row or option is unknown, or the suite lacks data that a row needs (checked before any work).
    """
    rows = settings.rows()
    check_data(suite, rows)
    folder = check_writable(output)
    results = _empty(suite, settings, origin)
    former = former_results(folder / RESULTS, results, DECIDING) if resume else None
    kept_rows = former["rows"] if former is not None else {}
    shop = Workshop(suite, settings.seed, ExpertAnswers(suite))
    for name, row in rows.items():
        with watch.stage(name):
            kept = kept_rows.get(name)
            if kept is not None and kept["settings"] == row.options:
                results["rows"][name] = kept
            else:
                results["rows"][name] = _record(row, shop)
        results["timings"] = watch.seconds
        _normalise(results["rows"])
        write_json(folder / RESULTS, results)
    draw_pictures(results, folder)
    write_text(folder / "comparison.md", tables.markdown(results))
    write_report(folder)
    return results


def _empty(suite: Suite, settings: CompareSettings, origin: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "origin": dict(origin),
        "seed": settings.seed,
        "steps": settings.steps,
        "tasks": list(suite.tasks),
        "classes": {name: task.num_labels for name, task in suite.tasks.items()},
        "environment": collect(),
        "timings": {},
        "geometry": task_vector_geometry(suite.base, suite.experts),
        "rows": {},
    }


def _record(row: Row, shop: Workshop) -> dict[str, Any]:
    """Build, score and measure one row; its models are dropped on return."""
    suite = shop.suite
    gc.collect()  # what the row before held in cycles: its memory is not this one's
    built = build(row, shop)
    models = built.made.models
    with measuring() as scoring:
        scored = score_once(suite, built.made)
    with measuring() as comparing:
        modes = modes_of(suite, built.made, scored)
    batches = {task: next(iter(inputs)) for task, inputs in suite.inputs("test", 8, 0).items()}
    return {
        "label": row.label,
        "kind": row.kind,
        "objective": row.objective,
        "settings": dict(row.options),
        "options": built.options,
        "search": built.search,
        "accuracy": scored.accuracies,
        "average": mean(scored.accuracies),
        "normalised": None,  # until the experts are there
        "predictions": scored.counts,
        "modes": modes,
        "routing": None if scored.routing is None else scored.routing.as_dict(),
        "parameters": count_distinct(models.values()),
        "trained_parameters": built.made.trained,
        "peak_memory": built.cost.peak_memory,
        "seconds": {
            "making": built.cost.seconds,
            "search": built.search_seconds,
            "scoring": scoring.seconds,
            "modes": comparing.seconds,
        },
        "inference_cost": inference_cost(suite.base, models, batches, suite.predict),
        "adaptation": None if built.made.adaptation is None else summary(built.made.adaptation),
    }


def _normalise(rows: Mapping[str, Any]) -> None:
    """Divide by the experts, once they are there."""
    if "individual" in rows:
        for row in rows.values():
            row["normalised"] = normalised(row["accuracy"], rows["individual"]["accuracy"])


def summary(adaptation: Adaptation) -> dict[str, Any]:
    """What is kept of an adaptation: losses, entropies by task, and what collapsed."""
    history = adaptation.history
    return {
        "loss": [record["loss"] for record in history],
        "entropy": {task: [record["entropy"][task] for record in history] for task in history[0]["entropy"]},
        "collapsed": list(adaptation.collapsed),
    }
