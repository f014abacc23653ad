"""The results of a comparison as a chart: a line for each method, a mark for each objective."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wemoe.comparison.tables import heading
from wemoe.files import replacing_file

STATIC = ("static", "o", "#4292c6")
LEARNED = {  # by objective
    "match": ("learned, match", "o", "#d94801"),
    "entropy": ("learned, entropy", "s", "#41ab5d"),
    "infomax": ("learned, infomax", "D", "#807dba"),
}
REFERENCES = {"pretrained": ("pre-trained", ":"), "individual": ("individual experts", "--")}


def plot_comparison(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the average test accuracy of each method.

    Args:
        results: what `wemoe.comparison.compare` returns.
        path: the PNG's file.
    """
    plot_averages(results["rows"], heading(results), path)


def plot_averages(rows_by_name: Mapping[str, Any], title: str, path: str | os.PathLike[str]) -> None:
    """Draw the average of each row; where it has a `spread`, as far to both sides.

    Args:
        rows_by_name: with the base and the experts, each with `label`, `kind`, `objective` and `average`.
        title: of the chart.
        path: the PNG's file.
    """
    rows = [row for row in rows_by_name.values() if row["kind"] != "reference"]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    figure = Figure(figsize=(8.5, 2.0 + 0.33 * len(labels)), layout="constrained")
    axes = figure.subplots()
    handles = _draw_references(axes, rows_by_name) + _draw_rows(axes, rows, labels)
    _write_best(axes, rows, labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.4, -0.6)
    axes.set_xlabel("average test accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)


def _draw_references(axes: Axes, rows: Mapping[str, Any]) -> list[Line2D]:
    """Base and experts as vertical lines."""
    return [
        axes.axvline(100 * rows[name]["average"], color="0.35", linestyle=style, linewidth=1.2, label=label)
        for name, (label, style) in REFERENCES.items()
    ]


def _draw_rows(axes: Axes, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[Line2D]:
    """Every row as a mark on its method's line; returns one handle for each kind of mark."""
    handles: dict[str, Line2D] = {}
    for row in rows:
        label, marker, color = STATIC if row["kind"] == "static" else LEARNED[row["objective"]]
        place = labels.index(row["label"])
        (mark,) = axes.plot(
            100 * row["average"],
            place,
            marker,
            color=color,
            markersize=7.5,
            markeredgecolor="white",
            markeredgewidth=0.7,
            label=label,
            zorder=3,
        )
        if row.get("spread") is not None:
            ends = [100 * (row["average"] - row["spread"]), 100 * (row["average"] + row["spread"])]
            axes.hlines(place, *ends, color=color, linewidth=1.8)
        handles.setdefault(label, mark)
    return list(handles.values())


def _write_best(axes: Axes, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """The best average of each line, in figures, at its right end."""
    for place, label in enumerate(labels):
        best = max(row["average"] for row in rows if row["label"] == label)
        axes.annotate(f"{100 * best:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
