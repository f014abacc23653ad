"""The section of routing: which expert each layer leans on, by task of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wemoe.html_report.findings import Findings
from wemoe.html_report.markup import Cell, Html, Line, details, element, paragraph, section, table
from wemoe.html_report.numbers import percent
from wemoe.routing_tables import RoutingTables, layer_titles

COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
HEIGHT = 40
WIDEST = 72  # of a panel's bars together, where there are many


def routing_section(findings: Findings) -> Html | None:
    """Mean routing weights and first choices of every routed row."""
    if not findings.routing:
        return None
    parts = [
        details(findings.title(name), _bars(name, tables, findings), _own_choices(tables), is_open=index == 0)
        for index, (name, tables) in enumerate(findings.routing.items())
    ]
    return section(
        "routing",
        "Where samples are routed",
        paragraph(
            "Every routed layer adds to its pre-trained weights a sum of the experts' task vectors, weighted anew "
            "for each sample by a router that reads it. The bars are these routing weights, averaged over the test "
            "samples of a task; the outlined bar is the task's own expert. The second table tells for how many "
            "samples that expert has the largest weight. Early layers are often shared between tasks and late ones "
            "are specific, if routing has learned anything; constant routing weights (depth 0) are the same in "
            "every column."
        ),
        *parts,
        paragraph(
            f"Recorded per sample on the whole test data{_first_run(findings)}; the layers are counted from the input.",
            class_="note",
        ),
    )


def _first_run(findings: Findings) -> str:
    return "" if findings.comparison is None else f", seed {findings.comparison['seed']}"


def _bars(name: str, all_tables: RoutingTables, findings: Findings) -> Html:
    tables = all_tables.some_layers()
    least, most = min(0.0, float(tables.mean.min())), max(0.0, float(tables.mean.max()))
    titles = layer_titles(tables.layers)
    lines = [
        Line(
            title,
            [
                _panel(tables.mean[t, layer].tolist(), tables.experts, task, least, most)
                for t, task in enumerate(tables.tasks)
            ],
        )
        for layer, title in enumerate(titles)
    ]
    caption = f"Mean routing weights of {findings.title(name)}: layers by task of the data, a bar for each expert"
    legend = [
        element("span", element("i", class_="swatch", style=f"background:{color}"), f" {expert}", class_="key")
        for expert, color in zip(tables.experts, _colors(len(tables.experts)), strict=True)
    ]
    scale = f"All panels have one scale, from {least:.2f} to {most:.2f}. "
    bars = table(caption, ["layer", *tables.tasks], lines, class_="panels")
    return element("figure", bars, element("figcaption", scale, "Experts: ", *legend))


def _panel(heights: Sequence[float], experts: Sequence[str], task: str, least: float, most: float) -> Html:
    """Bars of one layer and task, in the colours of the experts."""
    width = max(3, min(8, WIDEST // len(experts)))
    scale = HEIGHT / ((most - least) or 1.0)
    baseline = most * scale
    told = ", ".join(f"{expert} {value:.2f}" for expert, value in zip(experts, heights, strict=True))
    bars = [
        element(
            "rect",
            x=1 + index * (width + 1),
            y=f"{baseline - max(0.0, value) * scale:.1f}",
            width=width,
            height=f"{abs(value) * scale:.1f}",
            fill=color,
            class_="own" if expert == task else None,
        )
        for index, (expert, value, color) in enumerate(zip(experts, heights, _colors(len(experts)), strict=True))
    ]
    right = len(experts) * (width + 1) + 1
    line = element("path", d=f"M0 {baseline:.1f}h{right}", class_="baseline")
    return element(
        "svg",
        element("title", told),
        *bars,
        line,
        class_="panel",
        viewBox=f"0 -1 {right} {HEIGHT + 2}",
        role="img",
        aria_label=told,
    )


def _own_choices(tables: RoutingTables) -> Html:
    shares = tables.own_choice
    lines = [
        Line(
            task,
            [
                Cell("") if math.isnan(share) else Cell(percent(share, 0), heat=share, class_="heat")
                for share in shares[row].tolist()
            ],
        )
        for row, task in enumerate(tables.tasks)
    ]
    caption = "Share of a task's samples whose largest routing weight is that of their own expert, %"
    return table(caption, ["task", *layer_titles(tables.layers)], lines, class_="heatmap")


def _colors(count: int) -> list[str]:
    """A colour for each expert."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [f"hsl({360 * index // count} 60% {45 + 15 * (index % 2)}%)" for index in range(count)]
