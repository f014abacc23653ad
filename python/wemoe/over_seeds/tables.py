"""Means and spreads over seeds as tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wemoe.comparison.tables import machine, table_lines
from wemoe.text_tables import aligned

MEASURED = (
    "Accuracies are in percent, on test data: the mean over the seeds, and after ± the sample standard deviation. The "
    "normalised average divides each task's accuracy by that of its own expert."
)
MODES = (
    "Routed models, averaged over the tasks. Their weights are assembled for each sample from its own routing weights, "
    "or for all samples of a batch from the average of theirs; batches hold samples of a single task, or of all tasks "
    "mixed. Changed: samples, of {samples:,}, whose predicted class differs between the two kinds of batch, on average "
    "over the seeds."
)


HEADS = ("single", "mixed", "changed")


def terminal(results: Mapping[str, Any]) -> str:
    """Lay averages and modes out as text: one row a line, aligned."""
    rows = results["rows"]
    lines = [["", "average, %", "normalised"]]
    lines += [[name, _measured(row), _measured(row["normalised"])] for name, row in rows.items()]
    parts = [heading(results), "", *aligned(lines, gap="  ")]
    if modes := _modes(rows):
        told = "routed per sample, and by the average over the batch, in batches of one task and of all mixed:"
        parts += ["", told, "", *aligned([["", *HEADS, *HEADS], *modes], gap="  ")]
    return "\n".join(parts)


def markdown(results: Mapping[str, Any]) -> str:
    """Lay the results out as a Markdown document."""
    tasks, rows = results["tasks"], results["rows"]
    table = [["method", *tasks, "average", "normalised"]]
    table += [
        [name, *(_measured(row["accuracy"][task]) for task in tasks), _measured(row), _measured(row["normalised"])]
        for name, row in rows.items()
    ]
    parts = [f"# {heading(results)}", "", machine(results), "", *table_lines(table), "", MEASURED, ""]
    if modes := _modes(rows):
        heads = [f"{mode}, {head}" for mode in ("per sample", "averaged") for head in HEADS]
        samples = next(row["modes"]["samples"] for row in rows.values() if row["modes"] is not None)
        told = MODES.format(samples=samples)
        parts += ["## Routing modes", "", *table_lines([["method", *heads], *modes]), "", told, ""]
    seeds = ", ".join(f"[{seed}]({path})" for seed, path in results["runs"].items())
    return "\n".join([*parts, f"Each seed by itself: {seeds}.", ""])


def heading(results: Mapping[str, Any]) -> str:
    """One line that says what was compared, in how many steps of adaptation, with which seeds."""
    kinds = [row["kind"] for row in results["rows"].values()]
    adaptation = f"{results['steps']} steps of adaptation" if "learned" in kinds else "no adaptation"
    seeds = f"seed{'s' * (len(results['seeds']) > 1)} {', '.join(map(str, results['seeds']))}"
    merges = len(kinds) - kinds.count("reference")
    return f"{merges} merges of {len(results['tasks'])} experts: {adaptation}, {seeds}"


def _modes(rows: Mapping[str, Any]) -> list[list[str]]:
    """By routed row: its name, and in each mode the accuracy in both kinds of batch, and how many samples changed."""
    return [
        [
            name,
            *(
                cell
                for mode, changed in row["modes"]["changed"].items()
                for cell in (
                    _measured(row["modes"][mode]["single"]),
                    _measured(row["modes"][mode]["mixed"]),
                    f"{changed:,.0f}",
                )
            ),
        ]
        for name, row in rows.items()
        if row["modes"] is not None
    ]


def _measured(found: Mapping[str, float | None]) -> str:
    """A mean in percent, with its spread where there is one: 76.8 ± 1.2."""
    center, spread = found["mean"], found["spread"]
    if center is None:
        return "-"
    return f"{100 * center:.1f}" if spread is None else f"{100 * center:.1f} ± {100 * spread:.1f}"
