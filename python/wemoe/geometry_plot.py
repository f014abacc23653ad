"""The geometry of task vectors as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wemoe.files import replacing_file
from wemoe.geometry_tables import joined_cosines, modules_by_kind


def plot_geometry(geometry: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the cosines between tasks as heat maps, one for each kind of module, and the lengths by module and task.

    Args:
        geometry: what `wemoe.geometry.task_vector_geometry` returns, or JSON of it.
        path: the PNG's file.
    """
    tasks, modules = list(geometry["l2"]), geometry["modules"]
    kinds = modules_by_kind(geometry)
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    side = 0.9 + 0.3 * len(tasks)
    heights = [rows * (side + 0.9), 1.6 + 0.3 * len(tasks)]
    figure = Figure(figsize=(max(8.0, columns * (side + 0.3), 2.5 + 0.22 * len(modules)), sum(heights)))
    figure.set_layout_engine("constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    panels = above.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(kinds) :]:
        axes.set_visible(False)
    for axes, (kind, indices) in zip(panels.flat, kinds.items(), strict=False):
        table = np.array(joined_cosines(geometry, indices), dtype=float)  # None becomes NaN
        image = axes.imshow(table, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        axes.set_title(kind, fontsize=8)
        axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    above.colorbar(image, ax=panels, label="cosine of task vectors", shrink=0.8)
    axes = below.subplots()
    image = axes.imshow(np.array(list(geometry["l2"].values())), cmap="viridis", aspect="auto", vmin=0.0)
    axes.set_xticks(range(len(modules)), modules, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    below.colorbar(image, ax=axes, label="L2 of task vectors")
    with replacing_file(path) as staging:
        figure.savefig(staging, format="png", dpi=130)
