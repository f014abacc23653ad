"""Routing weights as pictures: heat maps, bars, and how often samples choose their own task's expert."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from wemoe.files import replacing_file
from wemoe.inspection import RoutingSummary
from wemoe.routing_tables import RoutingTables, layer_titles

Routing = RoutingSummary | RoutingTables


def plot_routing(summary: Routing, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw the mean routing weights as heat maps: one panel per layer, a row per task, a column per expert.

    Args:
        summary: what `wemoe.summarise_routing` returns, or its tables.
        path: the PNG's file.
        data: what the samples are, for the label of the rows: "task of the data".
    """
    tables = _tables(summary)
    limit = float(np.abs(tables.mean).max())
    _heat_maps(tables.mean, tables, path, data, label="mean routing weight", cmap="RdBu_r", vmin=-limit, vmax=limit)


def plot_first_choices(summary: Routing, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw how often each expert has the largest routing weight, as heat maps like those of `plot_routing`.

    Args:
        summary: what `wemoe.summarise_routing` returns, or its tables.
        path: the PNG's file.
        data: what the samples are, for the label of the rows.
    """
    label = "share of samples whose largest routing weight is the expert's"
    tables = _tables(summary)
    _heat_maps(tables.first_choice, tables, path, data, label=label, cmap="Blues", vmin=0.0, vmax=1.0)


def plot_own_choices(summary: Routing, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw how often the largest routing weight is that of the samples' own task: a row per task, a column per layer.

    A task that no expert is named after has an empty row.

    Args:
        summary: what `wemoe.summarise_routing` returns, or its tables.
        path: the PNG's file.
        data: what the samples are, for the label of the rows.
    """
    tables = _tables(summary)
    tasks, layers = tables.own_choice.shape
    figure = Figure(figsize=(2.4 + 0.6 * layers, 1.6 + 0.36 * tasks), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(tables.own_choice, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), share in np.ndenumerate(tables.own_choice):
        if not np.isnan(share):
            color = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(layers), layer_titles(tables.layers), rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(tasks), tables.tasks)
    axes.set_ylabel(f"task of the {data}")
    axes.set_title("samples whose largest routing weight is their own task's expert's, %", fontsize=10)
    figure.colorbar(image, ax=axes)
    _save(figure, path)


def plot_routing_bars(summary: Routing, path: str | os.PathLike[str], data: str = "data") -> None:
    """Draw the mean routing weights as bars: a row of panels per layer, a panel per task, a bar per expert.

    The bar of the expert that has the name of the panel's task is outlined.

    Args:
        summary: what `wemoe.summarise_routing` returns, or its tables.
        path: the PNG's file.
        data: what the samples are, for the label of the columns.
    """
    tables = _tables(summary)
    means = tables.mean.swapaxes(0, 1)  # [layers, tasks, T]
    layers, tasks, experts = means.shape
    colors = [colormaps["tab20" if experts > 10 else "tab10"](index % 20) for index in range(experts)]
    titles = layer_titles(tables.layers)
    figure, panels = _grid_of_panels(layers, tasks, experts, titles)
    least, most = min(0.0, float(means.min())), 1.05 * float(means.max())
    for row, title, values in zip(panels, titles, means, strict=True):
        for axes, task, heights in zip(row, tables.tasks, values, strict=True):
            outlines = ["black" if expert == task else "none" for expert in tables.experts]
            axes.bar(range(experts), heights, color=colors, edgecolor=outlines)
            axes.axhline(0, color="0.6", linewidth=0.6)
            axes.set_ylim(least, most)
            axes.tick_params(labelsize=7, bottom=False, labelbottom=False, labelleft=False)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for axes, task in zip(panels[0], tables.tasks, strict=True):
        axes.set_title(task, fontsize=10)
    figure.suptitle(
        f"mean routing weight by task of the {data}", fontsize=11, y=1 - 0.1 / figure.get_figheight(), va="top"
    )
    patches = [Patch(color=color, label=expert) for color, expert in zip(colors, tables.experts, strict=True)]
    figure.legend(handles=patches, title="expert", loc="lower center", ncols=4, frameon=False)
    _save(figure, path)


def _tables(summary: Routing) -> RoutingTables:
    return summary if isinstance(summary, RoutingTables) else summary.tables()


def _grid_of_panels(layers: int, tasks: int, experts: int, titles: Sequence[str]) -> tuple[Figure, NDArray[Any]]:
    """Panels between margins of a fixed size: of hundreds, matplotlib's own layout and shared axes take minutes."""
    left, right, top, bottom = 0.7 + 0.085 * max(map(len, titles)), 0.2, 0.6, 0.5 + 0.24 * math.ceil(experts / 4)
    width = max(4.6, left + right + tasks * max(1.1, 0.16 * experts))  # inches; four names of experts side by side
    height = top + bottom + 0.8 * layers
    figure = Figure(figsize=(width, height))
    margins = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    return figure, figure.add_gridspec(layers, tasks, **margins, wspace=0.1, hspace=0.3).subplots(squeeze=False)


def _heat_maps(
    table: NDArray[Any],
    tables: RoutingTables,
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
    for axes, title, values in zip(panels.flat, layer_titles(tables.layers), table.swapaxes(0, 1), strict=False):
        image = axes.imshow(values, **image_options)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(experts), tables.experts, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(tasks), tables.tasks)
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    figure.supxlabel("expert")
    figure.supylabel(f"task of the {data}")
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
