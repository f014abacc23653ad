"""The section of accuracies: every method as a mark on one scale, and every number in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wemoe.html_report.findings import REFERENCES, Figure, Findings, Row
from wemoe.html_report.markup import Cell, Html, Line, element, joined, paragraph, section, table
from wemoe.html_report.numbers import listed, percent, with_spread

MARKS = {None: "static", "match": "match", "entropy": "entropy", "infomax": "infomax"}


def accuracy_section(findings: Findings) -> Html | None:
    """What each method gets right, by task and on average."""
    if not findings.rows:
        return None
    return section(
        "accuracy",
        "Accuracy on the tasks",
        paragraph(_explanation(findings)),
        _chart(findings.rows),
        _table(findings),
        paragraph(
            "Percent of the test samples that are classified rightly; the average weighs every task alike. "
            "Normalised: each task's accuracy divided by that of its own expert, then averaged. Bold: the best "
            "merge of a column; the pre-trained model and the experts are no merges.",
            class_="note",
        ),
    )


def _explanation(findings: Findings) -> str:
    seeds = [] if findings.evaluation is None else findings.evaluation["seeds"]
    text = (
        "Each line of the picture is a method, and each mark one way to run it: static methods read no data or only "
        "inputs, learned ones adapt on unlabeled inputs and are told apart by the objective that they minimise. The "
        "dotted line is the pre-trained model, the dashed one the experts, each on its own task. "
    )
    if len(seeds) > 1:
        return text + f"Numbers are means over the seeds {listed(seeds)}; ± is their sample standard deviation."
    return text + "Numbers are those of one seed, so small differences mean little."


def _chart(rows: Mapping[str, Row]) -> Html:
    """Averages as marks on one scale; HTML, so that it fits any width."""
    shown = [row for row in rows.values() if row.kind != "reference" and row.average.mean is not None]
    if not shown:
        return Html("")
    lines = {name: rows[name].average.mean for name in REFERENCES if name in rows}
    values = [value for value in (*(row.average.mean for row in shown), *lines.values()) if value is not None]
    low, high = math.floor(20 * min(values)) / 20, math.ceil(20 * max(values)) / 20
    low = min(low, high - 0.05)

    def place(value: float) -> str:
        return f"left:{100 * (value - low) / (high - low):.2f}%"

    guides = [
        element("i", class_=f"guide {name}", style=place(value)) for name, value in lines.items() if value is not None
    ]
    methods: dict[str, list[Row]] = {}
    for row in shown:
        methods.setdefault(row.label, []).append(row)
    body = [_chart_line(label, group, guides, place) for label, group in methods.items()]
    ticks = [low + step / 20 for step in range(round(20 * (high - low)) + 1)]
    ticks = ticks[:: math.ceil(len(ticks) / 8)]
    scale = [element("span", percent(tick, 0), style=place(tick)) for tick in ticks]
    axis = element("div", element("span"), element("span", *scale, class_="track axis"), element("b"), class_="method")
    told = "; ".join(f"{row.title} {percent(row.average.mean)}" for row in shown)
    chart = element("div", *body, axis, class_="chart", role="img", aria_label=f"Average accuracy in percent: {told}")
    return element("figure", chart, element("figcaption", "Average test accuracy, %. ", _legend(shown, lines)))


def _chart_line(label: str, rows: Sequence[Row], guides: Sequence[Html], place: object) -> Html:
    left = place if callable(place) else str
    marks = [
        element(
            "i",
            class_=f"mark {MARKS.get(row.objective, 'static')}",
            style=left(row.average.mean or 0.0),
            title=f"{row.title}: {percent(row.average.mean)}",
        )
        for row in rows
    ]
    best = max(row.average.mean or 0.0 for row in rows)
    track = element("span", *guides, *marks, class_="track")
    return element("div", element("span", label), track, element("b", percent(best)), class_="method")


def _legend(rows: Sequence[Row], lines: Mapping[str, float | None]) -> Html:
    kinds = dict.fromkeys(MARKS.get(row.objective, "static") for row in rows)
    marks = [element("span", element("i", class_=f"mark {kind}"), f" {kind}", class_="key") for kind in kinds]
    names = {"pretrained": "pre-trained", "individual": "experts"}
    marks += [
        element("span", element("i", class_=f"guide {name}"), f" {names[name]} {percent(value)}", class_="key")
        for name, value in lines.items()
    ]
    return joined(marks)


def _table(findings: Findings) -> Html:
    tasks, rows = findings.tasks, findings.rows
    columns = {
        name: (
            *(row.accuracy[task] for task in tasks),
            row.average,
            row.normalised,
        )
        for name, row in rows.items()
    }
    merges = [columns[name] for name, row in rows.items() if row.kind != "reference"]
    best = [_highest([column[index] for column in merges]) for index in range(len(tasks) + 2)]
    lines = [
        Line(
            row_head(row),
            [
                Cell(
                    with_spread(figure.mean, figure.spread),
                    is_best=row.kind != "reference" and figure.mean is not None and figure.mean == highest,
                )
                for figure, highest in zip(columns[name], best, strict=True)
            ],
            class_=findings.class_of(name),
        )
        for name, row in rows.items()
    ]
    return table("Test accuracy by method and task, %", ["method", *tasks, "average", "normalised"], lines)


def row_head(row: Row) -> Html:
    """The head of a row's line: label and objective, its name when pointed at."""
    objective = [] if row.objective is None else [" ", element("small", row.objective, class_="objective")]
    return element("span", row.label, *objective, title=row.name)


def _highest(figures: Sequence[Figure]) -> float | None:
    return max((figure.mean for figure in figures if figure.mean is not None), default=None)
