"""Charts of fronts: two objectives against each other, or accuracies by preference where there are more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter
from torch import Tensor

from wemoe.files import replacing_file
from wemoe.pareto.fronts import Front

PREFERENCE_COLORS = "viridis"
FRONT_COLORS = [colormaps["tab10"](index) for index in (0, 1, 2, 3, 4, 5, 6, 8, 9)]  # without the grey
STEERED_MARKERS, FIXED_MARKERS = "osD^v", "X*ph8"
LONGEST_WITH_FIGURES = 30  # preferences, up to which a heat map tells its numbers


def plot_front(fronts: Sequence[Front], path: str | os.PathLike[str]) -> None:
    """Draw all fronts of two tasks against each other; of more tasks, the first front as a heat map.

    Args:
        fronts: of the same tasks; the first one is of a model that a preference steers.
        path: the PNG's file.

    Raises:
        ValueError: as in `plot_two_tasks` and `plot_accuracies`.
    """
    if len(_common_tasks(fronts)) == 2:
        plot_two_tasks(fronts, path)
    else:
        plot_accuracies(fronts[0], path)


def plot_two_tasks(fronts: Sequence[Front], path: str | os.PathLike[str]) -> None:
    """Draw fronts of two objectives: validation losses in one panel, test accuracies in the other.

    A front with preferences is a line in their order, and the colour of its marks is the preference of the first task.
    Models without preferences (individual ones, or a grid of coefficients) are marks alone. The axes of losses are
    logarithmic where all losses are positive.

    Args:
        fronts: of the same two tasks, in the order of the legend.
        path: the PNG's file.

    Raises:
        ValueError: there is no front, one has no points, or they are not all of the same two tasks.
    """
    tasks = _common_tasks(fronts)
    if len(tasks) != 2:
        raise ValueError(f"fronts must be of two tasks; found {list(tasks)}")
    figure = Figure(figsize=(11, 5), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for axes in (losses, accuracies):
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, marks = _draw(losses, fronts, [front.losses for front in fronts])
    _draw(accuracies, fronts, [100 * front.accuracies for front in fronts])
    _label(losses, tasks, "validation loss")
    _label(accuracies, tasks, "test accuracy, %")
    if all((front.losses > 0).all() for front in fronts):
        _make_logarithmic(losses)
    if marks is not None:
        figure.colorbar(marks, ax=[losses, accuracies], label=f"preference for {tasks[0]}")
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def plot_accuracies(front: Front, path: str | os.PathLike[str]) -> None:
    """Draw the test accuracies of one model at several preferences as a heat map, of any number of tasks.

    A row is a preference, in the front's order: on the left its entries, on the right each task's accuracy. Up to 30
    rows tell their numbers.

    Args:
        front: of points that all have a preference.
        path: the PNG's file.

    Raises:
        ValueError: the front has no points, or one without a preference.
    """
    tasks = _common_tasks([front])
    rows, columns = len(front.points), len(tasks)
    figure = Figure(figsize=(2.2 + 1.3 * columns, 1.4 + min(9.0, 0.32 * rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle(front.label, fontsize=11)
    accuracies = 100 * front.accuracies
    _draw_heat_map(panels[0], front.preferences, tasks, "preference", "{:.2f}", cmap="Blues", vmin=0.0, vmax=1.0)
    _draw_heat_map(panels[1], accuracies, tasks, "test accuracy, %", "{:.0f}", cmap="viridis")
    _save(figure, path)


def _common_tasks(fronts: Sequence[Front]) -> tuple[str, ...]:
    if len({front.tasks for front in fronts}) != 1:
        raise ValueError(f"fronts must be of the same tasks; found {[list(front.tasks) for front in fronts]}")
    for front in fronts:
        if not front.points:
            raise ValueError(f"front {front.label!r} must have points to draw; found none")
    return fronts[0].tasks


def _draw(axes: Axes, fronts: Sequence[Front], tables: Sequence[Tensor]) -> tuple[list[Line2D], PathCollection | None]:
    """Draw table [K, 2] of each front; return handles for a legend, and the last marks that a preference colours."""
    handles, marks = [], None
    markers = {True: iter(STEERED_MARKERS * len(fronts)), False: iter(FIXED_MARKERS * len(fronts))}
    for index, (front, table) in enumerate(zip(fronts, tables, strict=True)):
        color = FRONT_COLORS[index % len(FRONT_COLORS)]
        steered = all(point.preference is not None for point in front.points)
        marker = next(markers[steered])
        x, y = table.T.tolist()
        (line,) = axes.plot(
            x,
            y,
            linestyle="-" if steered else "none",
            marker=marker,
            color=color,
            markersize=_mark_size(front),
            alpha=0.85,
            label=front.label,
            zorder=2,
        )
        handles.append(line)
        if steered:
            marks = axes.scatter(
                x,
                y,
                s=_mark_size(front) ** 2,
                c=front.preferences[:, 0].tolist(),
                cmap=PREFERENCE_COLORS,
                vmin=0.0,
                vmax=1.0,
                marker=marker,
                edgecolors=[color],
                zorder=3,
            )
    return handles, marks


def _mark_size(front: Front) -> float:
    """Points wide: small ones where there are many."""
    return 8.0 if len(front.points) <= LONGEST_WITH_FIGURES else 4.0


def _label(axes: Axes, tasks: Sequence[str], what: str) -> None:
    axes.set_title(what, fontsize=11)
    axes.set_xlabel(tasks[0])
    axes.set_ylabel(tasks[1])


def _make_logarithmic(axes: Axes) -> None:
    """Losses of an individual model on the other's task are many times those of a front."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes_of_losses: tuple[Axis, ...] = (axes.xaxis, axes.yaxis)
    for axis in axes_of_losses:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def _draw_heat_map(
    axes: Axes, table: Tensor, tasks: Sequence[str], title: str, figures: str, **image_options: Any
) -> None:
    """Draw table [K, T] with its own colour bar, and its numbers where they have room."""
    image = axes.imshow(table.numpy(), aspect="auto", interpolation="nearest", **image_options)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks([])
    axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
    if len(table) > LONGEST_WITH_FIGURES:
        return
    for row, numbers in enumerate(table.tolist()):
        for column, number in enumerate(numbers):
            red, green, blue, _ = image.cmap(image.norm(number))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            color = "black" if light else "white"
            axes.text(column, row, figures.format(number), ha="center", va="center", color=color, fontsize=8)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
