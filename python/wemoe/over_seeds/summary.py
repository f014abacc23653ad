"""Comparisons of several seeds as one: of every number its mean, and its spread, the sample standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from wemoe.comparison.running import mean

Record = Mapping[str, Any]  # of one row in one seed's `comparison.json`
Measured = dict[str, float | None]  # `mean` and `spread`


def summarise(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gather what the comparisons of several seeds hold of every row.

    Args:
        comparisons: what `comparison.json` holds, one for each seed; of the same rows and tasks.

    Returns:
        By row, `label`, `kind` and `objective`; `mean` and `spread` of its average accuracy; both of the `normalised`
        average, of the `accuracy` by task, and of the `modes` of routed rows, averaged over tasks.
    """
    return {name: _summary([each["rows"][name] for each in comparisons]) for name in comparisons[0]["rows"]}


def mean_and_spread(values: Sequence[float | None]) -> Measured:
    """Return the mean and the sample standard deviation: None for one value, and both where one is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "spread": None}
    return {"mean": statistics.fmean(known), "spread": statistics.stdev(known) if len(known) > 1 else None}


def _summary(records: Sequence[Record]) -> dict[str, Any]:
    first = records[0]
    return {
        **{key: first[key] for key in ("label", "kind", "objective")},
        **mean_and_spread([record["average"] for record in records]),
        "normalised": mean_and_spread([record["normalised"] for record in records]),
        "accuracy": {
            task: mean_and_spread([record["accuracy"][task] for record in records]) for task in first["accuracy"]
        },
        "modes": None if first["modes"] is None else _modes([record["modes"] for record in records]),
    }


def _modes(found: Sequence[Record]) -> dict[str, Any]:
    """Average over the tasks of a seed, then over seeds; of counts, over seeds."""
    return {
        mode: {
            batches: mean_and_spread([mean(each[mode][batches]) for each in found]) for batches in ("single", "mixed")
        }
        for mode in ("per_sample", "batch_averaged")
    } | {
        "changed": {mode: statistics.fmean(each["changed"][mode] for each in found) for mode in found[0]["changed"]},
        "samples": found[0]["samples"],
    }
