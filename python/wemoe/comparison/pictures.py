"""All pictures of a comparison: averages, task vectors, and where its routed models send samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wemoe.comparison.charts import plot_comparison
from wemoe.geometry_plot import plot_geometry
from wemoe.html_report.findings import is_recommended
from wemoe.routing_plots import plot_own_choices, plot_routing_bars
from wemoe.routing_tables import RoutingTables


def draw_pictures(results: Mapping[str, Any], folder: Path) -> None:
    """Draw the results of a comparison.

    Args:
        results: what `wemoe.comparison.compare` returns.
        folder: gets `comparison.png`, `geometry.png`, and, for each routed row with the recommended objective,
            `routing_ROW.png` and `own_choices_ROW.png`.
    """
    plot_comparison(results, folder / "comparison.png")
    plot_geometry(results["geometry"], folder / "geometry.png")
    for name, row in results["rows"].items():
        if row.get("routing") and is_recommended(row["objective"]):
            tables = RoutingTables.from_dict(row["routing"])
            plot_routing_bars(tables.some_layers(), folder / f"routing_{name}.png")
            plot_own_choices(tables, folder / f"own_choices_{name}.png")
