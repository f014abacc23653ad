"""Results as a table and as charts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from wemoe.files import replacing_file
from wemoe.inspection import RoutingSummary
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
    _save(figure, path)


def plot_routing(summary: RoutingSummary, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw the mean routing weights as heat maps: one panel per layer, a row per task, a column per expert.

    Args:
        summary: what `wemoe.summarise_routing` returns.
        path: the PNG's file.
        data: what the samples are, for the label of the rows: "task of the data".
    """
    means = summary.mean().numpy()
    limit = float(np.abs(means).max())
    _heat_maps(means, summary, path, data, label="mean routing weight", cmap="RdBu_r", vmin=-limit, vmax=limit)


def plot_first_choices(summary: RoutingSummary, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw how often each expert has the largest routing weight, as heat maps like those of `plot_routing`.

    Args:
        summary: what `wemoe.summarise_routing` returns.
        path: the PNG's file.
        data: what the samples are, for the label of the rows.
    """
    label = "share of samples whose largest routing weight is the expert's"
    _heat_maps(summary.first_choice().numpy(), summary, path, data, label=label, cmap="Blues", vmin=0.0, vmax=1.0)


def plot_routing_bars(summary: RoutingSummary, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw the mean routing weights as bars: a row of panels per layer, a panel per task, a bar per expert.

    The bar of the expert that has the name of the panel's task is outlined.

    Args:
        summary: what `wemoe.summarise_routing` returns.
        path: the PNG's file.
        data: what the samples are, for the label of the columns.
    """
    means = summary.mean().numpy().swapaxes(0, 1)  # [layers, tasks, T]
    layers, tasks, experts = means.shape
    colors = [colormaps["tab20" if experts > 10 else "tab10"](index % 20) for index in range(experts)]
    titles = layer_titles(summary.layers)
    figure, panels = _grid_of_panels(layers, tasks, experts, titles)
    least, most = min(0.0, float(means.min())), 1.05 * float(means.max())
    for row, title, values in zip(panels, titles, means, strict=True):
        for axes, task, heights in zip(row, summary.tasks, values, strict=True):
            outlines = ["black" if expert == task else "none" for expert in summary.experts]
            axes.bar(range(experts), heights, color=colors, edgecolor=outlines)
            axes.axhline(0, color="0.6", linewidth=0.6)
            axes.set_ylim(least, most)
            axes.tick_params(labelsize=7, bottom=False, labelbottom=False, labelleft=False)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for axes, task in zip(panels[0], summary.tasks, strict=True):
        axes.set_title(task, fontsize=10)
    figure.suptitle(
        f"mean routing weight by task of the {data}", fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top"
    )
    patches = [Patch(color=color, label=expert) for color, expert in zip(colors, summary.experts, strict=True)]
    figure.legend(handles=patches, title="expert", loc="lower center", ncols=4, frameon=False)
    _save(figure, path)


def _grid_of_panels(layers: int, tasks: int, experts: int, titles: Sequence[str]) -> tuple[Figure, NDArray[Any]]:
    """Panels between margins of a fixed size: of hundreds, matplotlib's own layout and shared axes take minutes."""
    left, right, top, bottom = 0.7 + 0.085 * max(map(len, titles)), 0.2, 0.6, 0.5 + 0.24 * math.ceil(experts / 4)
    width = max(4.6, left + right + tasks * max(1.1, 0.16 * experts))  # inches; four names of experts side by side
    height = top + bottom + 0.8 * layers
    figure = Figure(figsize=(width, height))
    margins = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    return figure, figure.add_gridspec(layers, tasks, **margins, wspace=0.1, hspace=0.3).subplots(squeeze=False)


def layer_titles(paths: Sequence[str]) -> list[str]:
    """The components that tell the paths of layers apart; "layer 1" and so on where that is a number from 0."""
    components = [path.split(".") for path in paths]
    if len(paths) == 1 or len({len(names) for names in components}) > 1:
        return list(paths)
    differing = [names for names in zip(*components, strict=True) if len(set(names)) > 1]
    titles = [".".join(names) for names in zip(*differing, strict=True)]
    return [f"layer {int(title) + 1}" if title.isdecimal() else title for title in titles]


def _heat_maps(
    table: NDArray[Any],
    summary: RoutingSummary,
    path: str | os.PathLike[str],
    data: str,
    label: str,
    **image_options: Any,
) -> None:
    """Draw table [tasks, layers, T], a panel for each layer."""
    tasks, layers, experts = table.shape
    columns = min(layers, math.ceil(math.sqrt(4 / 3 * layers)))
    rows = -(-layers // columns)
    width, height = (0.42 * count + 0.9 for count in (experts, tasks))
    figure = Figure(figsize=(columns * width + 1.2, rows * height + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[layers:]:
        axes.set_visible(False)
    for axes, title, values in zip(panels.flat, layer_titles(summary.layers), table.swapaxes(0, 1), strict=False):
        image = axes.imshow(values, **image_options)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(experts), summary.experts, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(tasks), summary.tasks)
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    figure.supxlabel("expert")
    figure.supylabel(f"task of the {data}")
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
