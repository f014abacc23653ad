"""Corruptions: models adapt on corrupted images and are scored on corrupted images, one corruption after another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn

from wemoe.comparison.choosing import CompareSettings, check_data
from wemoe.comparison.making import Made, Workshop
from wemoe.comparison.resuming import former_results
from wemoe.comparison.rows import ROWS, Row
from wemoe.comparison.running import build
from wemoe.data.batches import Labelled
from wemoe.expert_answers import ExpertAnswers
from wemoe.files import check_writable, write_json
from wemoe.off_distribution.charts import plot_corruptions, plot_predictions
from wemoe.off_distribution.corrupted import check_images, corrupted_suite
from wemoe.off_distribution.corrupting import CORRUPTIONS, Corruption, library
from wemoe.off_distribution.scoring import chosen_rows, described, scored
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite

RESULTS = "corruptions.json"
CLEAN = "clean"
TO_COME = ("collapses", "corruptions")
THRESHOLD = 0.03  # accuracy below the static merge's, from which a task counts as collapsed


def corruptions(
    suite: Suite,
    settings: CompareSettings,
    output: str | os.PathLike[str],
    *,
    severity: int = 2,
    names: Iterable[str] = CORRUPTIONS,
    watch: Stopwatch | None = None,
    origin: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compare rows on clean and on corrupted images; write `corruptions.json` and two charts.

    What needs no adaptation is made once, on clean data. Learned rows are made anew for each corruption: they adapt on
    the corrupted unlabeled images, where `match` asks the experts what they see in these. All are scored on the
    corrupted test images. A task has collapsed where its accuracy is more than 3 points below that of the reference,
    the static merge whose average is the highest under the same corruption.

    The JSON is written anew after each corruption, so that an interrupt loses one at most.

    Args:
        suite: of images.
        settings: rows, seed and steps; where they name no rows, `DEFAULT_ROWS`.
        output: folder of the results.
        severity: of all corruptions, 1 to 5.
        names: of corruptions; clean images always come first.
        watch: tells of each corruption.
        origin: what the suite was made from, kept in the results.
        resume: keep the corruptions that the folder holds already, if all that decides them is the same.

    Returns:
        What `corruptions.json` holds.

    Raises:
        ImportError: the library of corruptions is not installed.
        OSError: the output folder can't be written.
        ValueError: a row, an option or a corruption is unknown, no row is a static merge, or the suite lacks data that
            a row needs or does not consist of images. All are checked before any work.
    """
    rows, names = chosen_rows(settings), list(names)
    for name in names:
        Corruption(name, severity)  # which checks itself
    check_corruptions(suite, settings)
    folder = check_writable(output)
    results = _empty(suite, settings, rows, severity, origin or {})
    former = former_results(folder / RESULTS, results, results.keys() - TO_COME) if resume else None
    watch = watch or Stopwatch(lambda _: None)
    bench = _Bench(suite, rows, settings.seed)
    for name in (CLEAN, *names):
        with watch.stage(name):
            if former is not None and name in former["corruptions"]:
                results["corruptions"][name] = former["corruptions"][name]
            else:
                start = time.perf_counter()
                record = judged(bench.score(_under(suite, name, severity, settings.seed)))
                results["corruptions"][name] = record | {"seconds": time.perf_counter() - start}
        results["collapses"] = collapses(results)
        write_json(folder / RESULTS, results)
    plot_corruptions(results, folder / "corruptions.png")
    plot_predictions(results, folder / "corruptions_predictions.png")
    return results


def check_corruptions(suite: Suite, settings: CompareSettings) -> None:
    """Check that a suite can be corrupted and that its rows can be compared then.

    Raises:
        ImportError: the library of corruptions is not installed.
        ValueError: a row or an option is unknown, no row is a static merge, or the suite lacks data that a row needs or
            does not consist of images.
    """
    rows = chosen_rows(settings)
    if not _static(rows):
        raise ValueError(f"methods must name a static merge, which collapses are told by; found {list(rows)}")
    check_images(suite)
    check_data(suite, rows)
    library()


def collapses(results: Mapping[str, Any]) -> dict[str, int]:
    """Count, by row, the tasks that collapsed, over all corruptions; clean images do not count."""
    records = [record["rows"] for name, record in results["corruptions"].items() if name != CLEAN]
    return {row: sum(len(rows[row]["collapsed"]) for rows in records) for row in results["settings"]}


def judged(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tell of the rows under one corruption which tasks have collapsed, and the static merge that they are told by.

    Args:
        rows: by row, its `accuracy` by task and its `average`; one at least is a static merge.

    Returns:
        The `rows` with `collapsed`, and `reference`: the static row of the highest average, of equal ones the first.
    """
    reference = max(_static(rows), key=lambda name: rows[name]["average"])
    best = rows[reference]["accuracy"]
    return {
        "reference": reference,
        "rows": {name: {**row, "collapsed": collapsed(row["accuracy"], best)} for name, row in rows.items()},
    }


def collapsed(accuracy: Mapping[str, float], reference: Mapping[str, float]) -> list[str]:
    """The tasks whose accuracy is below the reference's by more than the threshold."""
    # Rounded, since 0.60 - 0.57 is above 0.03 in floating point.
    return [task for task, value in accuracy.items() if round(reference[task] - value, 9) > THRESHOLD]


class _Bench:
    """Makes the rows: static ones once, learned ones for each corruption."""

    def __init__(self, suite: Suite, rows: Mapping[str, Row], seed: int) -> None:
        self._suite = suite
        self._rows = rows
        self._seed = seed

    @cached_property
    def _unlearned(self) -> dict[str, Made]:
        shop = self._shop(self._suite)
        return {name: build(row, shop).made for name, row in self._rows.items() if row.kind != "learned"}

    def score(self, suite: Suite) -> dict[str, dict[str, Any]]:
        """Score all rows on a suite, whose unlabeled inputs the learned ones adapt on."""
        shop = self._shop(suite)
        return {name: scored(suite, self._models(name, shop)) for name in self._rows}  # one learned model at a time

    def _models(self, name: str, shop: Workshop) -> Mapping[str, nn.Module]:
        row = self._rows[name]
        return build(row, shop).made.models if row.kind == "learned" else self._unlearned[name].models

    def _shop(self, suite: Suite) -> Workshop:
        return Workshop(suite, self._seed, ExpertAnswers(suite))


def _under(suite: Suite, name: str, severity: int, seed: int) -> Suite:
    return suite if name == CLEAN else corrupted_suite(suite, name, severity, seed)


def _static(rows: Iterable[str]) -> list[str]:
    return [name for name in rows if ROWS[name].kind == "static"]


def _empty(
    suite: Suite, settings: CompareSettings, rows: Mapping[str, Row], severity: int, origin: Mapping[str, Any]
) -> dict[str, Any]:
    tests = {name: task.test for name, task in suite.tasks.items() if task.test is not None}
    return {
        "severity": severity,
        "library": library(),
        **described(suite, settings, rows, origin),
        "samples": {name: len(test.samples) for name, test in tests.items()},
        "classes": {name: task.num_labels for name, task in suite.tasks.items()},
        "labels": {name: _counts(test, suite.tasks[name].num_labels) for name, test in tests.items()},
        "threshold": THRESHOLD,
        "collapses": {},
        "corruptions": {},
    }


def _counts(test: Labelled, num_labels: int) -> list[int]:
    counts: list[int] = torch.bincount(test.labels, minlength=num_labels).tolist()
    return counts
