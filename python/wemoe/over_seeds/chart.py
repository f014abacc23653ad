"""The means over seeds as a chart: a line for each method, a mark for each objective, a bar as long as the spread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from wemoe.comparison.charts import plot_averages
from wemoe.over_seeds.tables import heading


def plot_summary(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw mean and spread of each row's average test accuracy.

    Args:
        results: what `wemoe.over_seeds.evaluate_suite` returns.
        path: the PNG's file.
    """
    rows = {name: {**row, "average": row["mean"]} for name, row in results["rows"].items()}
    spread = ", mean ± standard deviation" if len(results["seeds"]) > 1 else ""
    plot_averages(rows, heading(results) + spread, path)
