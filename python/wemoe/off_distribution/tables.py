"""Both experiments as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wemoe.text_tables import aligned


def corruption_table(results: Mapping[str, Any]) -> str:
    """Average accuracy in percent: a line for each row, a column for each corruption, and the count of collapses."""
    names = list(results["corruptions"])
    lines = [["accuracy, %", *names, "collapses"]]
    for row, count in results["collapses"].items():
        averages = [results["corruptions"][name]["rows"][row]["average"] for name in names]
        lines.append([row, *(f"{100 * average:.1f}" for average in averages), str(count)])
    return "\n".join(aligned(lines, gap="  "))


def collapse_table(results: Mapping[str, Any]) -> str:
    """Every task that collapsed: under which corruption and in which row, the best static merge's accuracy and its own.

    The last columns tell the class that is predicted most, of how many, and its share of all predictions, beside the
    share of the most frequent real class.
    """
    lines = [["corruption", "row", "task", "static", "accuracy", "most predicted", "share", "real"]]
    for name, record in results["corruptions"].items():
        for row, found in record["rows"].items():
            for task in found["collapsed"]:
                lines.append([name, row, task, *_collapse(record, results["labels"], row, task)])
    if len(lines) == 1:
        return "no task collapsed"
    return "\n".join(aligned(lines, gap="  "))


def _collapse(record: Mapping[str, Any], labels: Mapping[str, Any], row: str, task: str) -> list[str]:
    rows, real = record["rows"], labels[task]
    predictions = rows[row]["predictions"][task]
    most = max(predictions)
    return [
        f"{100 * rows[record['reference']]['accuracy'][task]:.1f}",
        f"{100 * rows[row]['accuracy'][task]:.1f}",
        f"{predictions.index(most)} of {len(predictions)}",
        f"{100 * most / sum(predictions):.1f}",
        f"{100 * max(real) / sum(real):.1f}",
    ]


def unseen_table(results: Mapping[str, Any]) -> str:
    """Mean accuracy in percent on tasks that were merged, on those that were not, and on these by pair."""
    pairs = ["+".join(pair["unseen"]) for pair in results["pairs"]]
    lines = [["accuracy, %", "seen", "unseen", *pairs]]
    for row, means in results["mean"].items():
        values = [means["seen"], means["unseen"], *(pair["rows"][row]["unseen_mean"] for pair in results["pairs"])]
        lines.append([row, *(f"{100 * value:.1f}" for value in values)])
    return "\n".join(aligned(lines, gap="  "))
