"""Both experiments as charts: accuracies by row, and what is predicted under the worst corruption."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wemoe.comparison.charts import LEARNED, STATIC
from wemoe.comparison.rows import ROWS
from wemoe.files import replacing_file

MARKERS = "osD^vP*X<>"
COLLAPSED = "#cb181d"


def label_of(row: str) -> str:
    """A row's name in charts: its method, and its objective where it has one."""
    objective = ROWS[row].objective
    return ROWS[row].label + (f", {objective}" if objective else "")


def plot_corruptions(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the average accuracy of each row under each corruption, and the count of its collapses in the legend.

    Args:
        results: what `wemoe.off_distribution.corruptions` returns.
        path: the PNG's file.
    """
    names = list(results["corruptions"])
    figure = Figure(figsize=(2.5 + 1.1 * len(names), 5.2), layout="constrained")
    axes = figure.subplots()
    for row, style in _styles(list(results["settings"])).items():
        heights = [100 * record["rows"][row]["average"] for record in results["corruptions"].values()]
        axes.plot(range(len(names)), heights, label=f"{label_of(row)} ({results['collapses'][row]})", **style)
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylabel("average test accuracy, %")
    axes.set_title(
        f"corrupted images at severity {results['severity']}; in brackets, tasks more than "
        f"{100 * results['threshold']:.0f} points below the best static merge",
        fontsize=10,
    )
    _tidy(axes, "y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _save(figure, path)


def worst_corruption(results: Mapping[str, Any]) -> str:
    """The corruption under which most tasks collapsed; of equal ones, that of the lowest accuracy over all rows."""

    def badness(name: str) -> tuple[int, float]:
        rows = results["corruptions"][name]["rows"].values()
        return sum(len(row["collapsed"]) for row in rows), -sum(row["average"] for row in rows)

    corrupted: list[str] = [name for name in results["corruptions"] if name != "clean"]
    return max(corrupted, key=badness, default="clean")


def plot_predictions(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw how often each class is predicted under the worst corruption: a row of panels a task, a column a row.

    What the samples really are is an outline; the panels of collapsed tasks are red.

    Args:
        results: what `wemoe.off_distribution.corruptions` returns.
        path: the PNG's file.
    """
    worst = worst_corruption(results)
    rows, tasks = results["corruptions"][worst]["rows"], results["tasks"]
    figure = Figure(figsize=(1.2 + 1.35 * len(rows), 1.4 + 0.95 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(rows), squeeze=False)
    for line, task in zip(panels, tasks, strict=True):
        most = max(
            max(counts) for counts in [results["labels"][task], *(row["predictions"][task] for row in rows.values())]
        )
        for axes, row in zip(line, rows.values(), strict=True):
            color = COLLAPSED if task in row["collapsed"] else STATIC[2]
            counts, real = row["predictions"][task], results["labels"][task]
            axes.bar(range(len(counts)), counts, width=0.9, color=color)
            axes.stairs(real, np.arange(len(real) + 1) - 0.5, color="0.2", linewidth=0.7)
            axes.set_ylim(0, 1.25 * most)
            axes.set_title(f"{100 * row['accuracy'][task]:.0f} %", fontsize=8, y=0.76)
            axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
            axes.spines[["top", "right", "left"]].set_visible(False)
        line[0].set_ylabel(task, rotation=0, ha="right", va="center", fontsize=9)
    for axes, name in zip(panels[-1], rows, strict=True):
        axes.set_xlabel(label_of(name).replace(", ", "\n").replace(" ", "\n"), fontsize=8)
    figure.suptitle(
        f"{worst.replace('_', ' ')}: predicted classes (bars) and real ones (outline); red: collapsed", fontsize=10
    )
    _save(figure, path)


def plot_unseen(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the mean accuracy of each row on the tasks that were merged and on those that were not.

    Args:
        results: what `wemoe.off_distribution.unseen` returns.
        path: the PNG's file.
    """
    rows = list(results["mean"])
    figure = Figure(figsize=(9.5, 1.9 + 0.36 * len(rows)), layout="constrained")
    titles = {"seen": "tasks that were merged", "unseen": "tasks that were not"}
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharex=True, sharey=True), titles.items(), strict=True):
        for place, row in enumerate(rows):
            pairs = [100 * pair["rows"][row][f"{kind}_mean"] for pair in results["pairs"]]
            whole = 100 * results["mean"][row][kind]
            axes.plot(pairs, [place] * len(pairs), "o", color="0.75", markersize=4, zorder=2)
            axes.plot(whole, place, "D", color=_color(row), markersize=7, markeredgecolor="white", zorder=3)
            axes.annotate(f"{whole:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [label_of(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("test accuracy, %")
        _tidy(axes, "both")
    handles = [
        Line2D([], [], marker="D", linestyle="", color="0.4", label="mean"),
        Line2D([], [], marker="o", linestyle="", color="0.75", markersize=4, label="one choice of unseen tasks"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _styles(rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By row: the colour of its objective, and one marker for all rows of a method."""
    labels = list(dict.fromkeys(ROWS[row].label for row in rows))
    markers = {label: MARKERS[index % len(MARKERS)] for index, label in enumerate(labels)}
    lines = {"pretrained": ":", "individual": "--"}
    return {
        row: {
            "color": _color(row),
            "marker": markers[ROWS[row].label],
            "linestyle": lines.get(row, "-"),
            "linewidth": 1.0,
            "markersize": 6.5,
            "markeredgecolor": "white",
        }
        for row in rows
    }


def _color(row: str) -> str:
    objective, kind = ROWS[row].objective, ROWS[row].kind
    if objective is not None:
        return LEARNED[objective][2]
    return STATIC[2] if kind == "static" else "0.35"


def _tidy(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="0.92")  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
