"""Unseen tasks: models are merged and adapted on some tasks of a suite and scored, apart, on the others.

Of the built-in suites these are left out, two at a time, as in the papers:

- `vision8`: four pairs that hold every task once, so that their mean counts all tasks alike, each a task of writing and
  one of pictures; then (mnist, optdigits), whose nearest kin is left out with it, so that of three sets of
  digits one is seen; and (landsat, texture), the two without objects, so that nothing like them is seen.
- `text6`: three pairs that hold every task once, and (movies, amazon), the two that ask for sentiment.

Of any other suite all pairs are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from torch import nn

from wemoe.comparison.choosing import CompareSettings, check_data
from wemoe.comparison.making import Workshop
from wemoe.comparison.resuming import former_results
from wemoe.comparison.rows import Row
from wemoe.comparison.running import build, mean
from wemoe.expert_answers import ExpertAnswers
from wemoe.files import check_writable, write_json
from wemoe.off_distribution.charts import plot_unseen
from wemoe.off_distribution.scoring import chosen_rows, described, scored
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite

RESULTS = "unseen.json"
TO_COME = ("pairs", "mean")
PAIRS = (
    (
        ("mnist", "landsat"),
        ("pendigits", "texture"),
        ("optdigits", "emoji"),
        ("radical", "fashion"),
        ("mnist", "optdigits"),
        ("landsat", "texture"),
    ),
    (("movies", "icd"), ("amazon", "hypernym"), ("supersense", "pos"), ("movies", "amazon")),
)


def unseen(
    suite: Suite,
    settings: CompareSettings,
    output: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]] | None = None,
    watch: Stopwatch | None = None,
    origin: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compare rows on tasks that they were not merged of; write `unseen.json` and `unseen.png`.

    For each pair, all rows are made of the other tasks: of their experts, and of their unlabeled inputs. The two unseen
    tasks are read through their own heads; of them nothing else is known, but to `individual`, which is their own
    experts, a ceiling. The JSON is written anew after each pair, so that an interrupt loses one at most.

    Args:
        suite: models and tasks.
        settings: rows, seed and steps; where they name no rows, `DEFAULT_ROWS`.
        output: folder of the results.
        pairs: the tasks to leave out, any number at a time; `pairs_of(suite)` by default.
        watch: tells of each pair.
        origin: what the suite was made from, kept in the results.
        resume: keep the pairs that the folder holds already, if all that decides them is the same.

    Returns:
        What `unseen.json` holds.

    Raises:
        OSError: the output folder can't be written.
        ValueError: a row or an option is unknown, the suite lacks data that a row needs, or a pair names an unknown
            task, one twice, none, or leaves less than two to merge. All are checked before any work.
    """
    rows = chosen_rows(settings)
    check_data(suite, rows)
    chosen = [_checked(suite, pair) for pair in (pairs_of(suite) if pairs is None else pairs)]
    folder = check_writable(output)
    results = described(suite, settings, rows, origin or {}) | {"pairs": [], "mean": {}}
    former = former_results(folder / RESULTS, results, results.keys() - TO_COME) if resume else None
    kept = {tuple(pair["unseen"]): pair for pair in former["pairs"]} if former is not None else {}
    watch = watch or Stopwatch(lambda _: None)
    for pair in chosen:
        with watch.stage(f"unseen: {', '.join(pair)}"):
            results["pairs"].append(kept.get(pair) or _compare(suite, rows, settings.seed, pair))
        results["mean"] = _means(results["pairs"])
        write_json(folder / RESULTS, results)
    plot_unseen(results, folder / "unseen.png")
    return results


def pairs_of(suite: Suite) -> list[tuple[str, ...]]:
    """Return the pairs of a suite's tasks that are left out by default.

    They are those of a built-in suite that has the same tasks, whatever their order; else all pairs.
    """
    for chosen in PAIRS:
        if {task for pair in chosen for task in pair} == suite.tasks.keys():
            return list(chosen)
    return list(combinations(suite.tasks, 2))


def _checked(suite: Suite, pair: Sequence[str]) -> tuple[str, ...]:
    seen = [task for task in suite.tasks if task not in pair]
    unknown = [task for task in pair if task not in suite.tasks]
    if unknown or len(set(pair)) != len(pair) or not pair or len(seen) < 2:
        raise ValueError(
            f"pairs must name distinct tasks of the suite, {list(suite.tasks)}, and leave two or more to merge; "
            f"found {list(pair)}"
        )
    return tuple(pair)


def _compare(suite: Suite, rows: Mapping[str, Row], seed: int, pair: Sequence[str]) -> dict[str, Any]:
    """Make all rows of the tasks that are not in the pair, and score them on all tasks."""
    start = time.perf_counter()
    seen = suite.only([task for task in suite.tasks if task not in pair])
    shop = Workshop(seen, seed, ExpertAnswers(seen))
    records = {name: _record(suite, name, build(row, shop).made.models, pair) for name, row in rows.items()}
    return {"unseen": list(pair), "rows": records, "seconds": time.perf_counter() - start}


def _record(suite: Suite, row: str, made: Mapping[str, nn.Module], pair: Sequence[str]) -> dict[str, Any]:
    """Score what a row has made, by task, on all tasks: what took no part is served by the one model that there is."""
    unseen_by = suite.experts if row == "individual" else dict.fromkeys(pair, next(iter(made.values())))
    found = scored(suite, {task: made[task] if task in made else unseen_by[task] for task in suite.tasks})
    seen = {task: value for task, value in found["accuracy"].items() if task not in pair}
    others = {task: found["accuracy"][task] for task in pair}
    return {
        "seen": seen,
        "unseen": others,
        "seen_mean": mean(seen),
        "unseen_mean": mean(others),
        "predictions": found["predictions"],
    }


def _means(pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By row, the means over the pairs of the accuracy on seen and on unseen tasks."""
    return {
        row: {
            kind: sum(pair["rows"][row][f"{kind}_mean"] for pair in pairs) / len(pairs) for kind in ("seen", "unseen")
        }
        for row in pairs[0]["rows"]
    }
