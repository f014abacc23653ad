"""The quick start's results as a table and as a chart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wemoe.files import replacing_file
from wemoe.text_tables import aligned

LABELS = {
    "pretrained": "pre-trained",
    "individual": "individual experts",
    "average": "simple average",
    "task_arithmetic": "task arithmetic",
    "wemoe_depth0": "WEMoE, depth 0",
    "wemoe": "WEMoE",
    "wemoe_entropy": "WEMoE, entropy",
}
COLORS = {
    "pretrained": "#c7c7c7",
    "individual": "#4d4d4d",
    "average": "#9ecae1",
    "task_arithmetic": "#4292c6",
    "wemoe_depth0": "#fdae6b",
    "wemoe": "#d94801",
    "wemoe_entropy": "#a1d99b",
}


def format_table(results: Mapping[str, Any]) -> str:
    """Lay the accuracies (in percent) out as text: one method a line, one task a column."""
    tasks = results["tasks"]
    rows = [["accuracy, %", *tasks, "average"]]
    for name, method in results["methods"].items():
        values = [method["accuracy"][task] for task in tasks] + [method["average"]]
        rows.append([LABELS.get(name, name), *(f"{100 * value:.1f}" for value in values)])
    return "\n".join(aligned(rows, gap="  "))


def gap_closed(methods: Mapping[str, Any]) -> dict[str, float] | None:
    """Share of the gap from the best static merge to the individual experts that each routed model closes.

    Args:
        methods: the `methods` of the results.

    Returns:
        Shares by method (negative where it is worse than static merging); None where there is no gap.
    """
    averages = {name: method["average"] for name, method in methods.items()}
    static = max(averages["average"], averages["task_arithmetic"])
    gap = averages["individual"] - static
    if gap <= 0:
        return None
    return {name: (average - static) / gap for name, average in averages.items() if name.startswith("wemoe")}


def plot_accuracy(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw accuracies as a bar chart: one group of bars per task and one for the average.

    Args:
        results: what `wemoe.quickstart.run` returns.
        path: the PNG's file.
    """
    groups = [*results["tasks"], "average"]
    methods = results["methods"]
    width = 0.84 / len(methods)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, method) in enumerate(methods.items()):
        heights = [100 * method["accuracy"][task] for task in results["tasks"]] + [100 * method["average"]]
        left = np.arange(len(groups)) + (index - len(methods) / 2 + 0.5) * width
        axes.bar(left, heights, width, label=LABELS.get(name, name), color=COLORS.get(name))
        axes.annotate(f"{heights[-1]:.0f}", (left[-1], heights[-1] + 1), ha="center", fontsize=7)
    axes.axvline(len(groups) - 1.5, color="0.8", linewidth=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(0, 100)
    axes.margins(x=0.01)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
