"""The section of corruptions: accuracy, collapses and predicted classes where test samples are not as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wemoe.html_report.findings import REFERENCES, Findings
from wemoe.html_report.histograms import histogram
from wemoe.html_report.markup import Cell, Html, Line, details, element, joined, paragraph, section, table
from wemoe.html_report.numbers import MISSING, counted, percent

CLEAN = "clean"


def corruptions_section(findings: Findings) -> Html | None:
    """Corrupted inputs, to adapt on and to score on."""
    held = findings.corruptions
    if held is None or not held["corruptions"]:
        return None
    names = list(held["corruptions"])
    rows = list(next(iter(held["corruptions"].values()))["rows"])
    threshold = 100 * held["threshold"]
    return section(
        "corruptions",
        "Corrupted images",
        paragraph(
            f"Every image, those to adapt on and those to score, is corrupted at severity {held['severity']} "
            f"({held['library']}); labels take no part in adaptation. A task has collapsed where its accuracy is "
            f"more than {threshold:g} points below that of the static merge that is best under the same corruption: "
            "often the model then gives one class or a few, whatever it is shown."
        ),
        _averages(findings, held, rows, names),
        paragraph(
            f"Collapses are counted over {counted(len(held['tasks']), 'task')} and "
            f"{counted(len(corrupted(held)), 'corruption')}; clean images are left out.",
            class_="note",
        ),
        element("h3", "Predicted classes, task by task"),
        paragraph(
            "Below each accuracy there is a bar for each class, as high as the class is often predicted. A healthy "
            "model spreads its predictions as the labels are spread; a collapsed one has a single tall bar. Tasks that "
            "collapsed are marked."
        ),
        *(_details(findings, held, name, rows) for name in names),
    )


def collapses(held: Mapping[str, Any]) -> dict[str, int]:
    """By row, how many tasks collapsed, over all corruptions; what merges nothing cannot collapse."""
    found = [held["corruptions"][name]["rows"] for name in corrupted(held)]
    names = list(next(iter(held["corruptions"].values()))["rows"])
    return {name: sum(len(rows[name]["collapsed"]) for rows in found) for name in names if name not in REFERENCES}


def corrupted(held: Mapping[str, Any]) -> list[str]:
    """The names of the corruptions, without clean images."""
    return [name for name in held["corruptions"] if name != CLEAN]


def _averages(findings: Findings, held: Mapping[str, Any], rows: Sequence[str], names: Sequence[str]) -> Html:
    merges = [row for row in rows if row not in REFERENCES]
    found = {row: [held["corruptions"][name]["rows"][row]["average"] for name in names] for row in rows}
    best = [max((found[row][index] for row in merges), default=None) for index in range(len(names))]
    lines, counts = [], collapses(held)
    for row in rows:
        pairs = zip(found[row], best, strict=True)
        cells = [Cell(percent(value), is_best=row in merges and value == top) for value, top in pairs]
        number = counts.get(row)
        cells.append(Cell(MISSING if number is None else number, class_="warning" if number else None))
        lines.append(_line(findings, row, cells))
    head = ["method", *(name.replace("_", " ") for name in names), "collapses"]
    return table("Average accuracy by corruption, %, and tasks that collapsed", head, lines)


def _details(findings: Findings, held: Mapping[str, Any], name: str, rows: Sequence[str]) -> Html:
    tasks = held["tasks"]
    found = held["corruptions"][name]["rows"]
    lines = [_line(findings, row, [_cell(found[row], task, row not in REFERENCES) for task in tasks]) for row in rows]
    if labels := held.get("labels"):
        lines.append(Line("true labels", [histogram(labels[task]) for task in tasks], class_="reference"))
    number = 0 if name == CLEAN else sum(len(found[row]["collapsed"]) for row in rows if row not in REFERENCES)
    title, best = name.replace("_", " "), findings.title(held["corruptions"][name]["reference"])
    summary = joined([title, " ", element("small", f"{counted(number, 'collapse')}") if number else ""])
    return details(
        summary,
        table(f"Accuracy (%) and predicted classes: {title}; best static merge: {best}", ["method", *tasks], lines),
        is_open=number > 0,
    )


def _line(findings: Findings, row: str, cells: Sequence[Cell]) -> Line:
    return Line(findings.title(row), cells, class_=findings.class_of(row))


def _cell(row: Mapping[str, Any], task: str, may_collapse: bool) -> Cell:
    has_collapsed = may_collapse and task in row["collapsed"]
    mark = element("small", " collapsed") if has_collapsed else ""
    content = joined([percent(row["accuracy"][task]), mark, histogram(row["predictions"][task])])
    return Cell(content, class_="warning" if has_collapsed else None)
