"""The section of unseen tasks: what merging and adapting on some tasks does to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wemoe.html_report.findings import REFERENCES, Findings
from wemoe.html_report.markup import Cell, Html, Line, details, paragraph, section, table
from wemoe.html_report.numbers import capitalised, counted, listed, percent


def unseen_section(findings: Findings) -> Html | None:
    """Tasks that took no part in merging."""
    unseen = findings.unseen
    if unseen is None or not unseen["pairs"]:
        return None
    pairs, rows = unseen["pairs"], list(unseen["mean"])
    return section(
        "unseen",
        "Tasks that were never seen",
        paragraph(
            f"{_left_out(pairs)} of the {len(unseen['tasks'])} tasks are left out; experts of the others are merged, "
            "adapted on unlabeled inputs of the others alone, and then scored on all tasks. For an unseen task the "
            "pre-trained model is what merging must not fall below, and its own expert, which took no part, is the "
            f"ceiling. Numbers are means over {counted(len(pairs), 'choice')} of unseen tasks."
        ),
        _means(findings, unseen["mean"], rows),
        *(_pair(findings, pair, rows) for pair in pairs),
    )


def _left_out(pairs: Sequence[Mapping[str, Any]]) -> str:
    """How many tasks are unseen at a time."""
    numbers = {len(pair["unseen"]) for pair in pairs}
    return capitalised({1: "one", 2: "two", 3: "three"}.get(max(numbers), "some") if len(numbers) == 1 else "some")


def _means(findings: Findings, means: Mapping[str, Any], rows: Sequence[str]) -> Html:
    best = {part: _highest(rows, {name: means[name][part] for name in rows}) for part in ("seen", "unseen")}
    lines = [
        _line(findings, name, [Cell(percent(means[name][part]), means[name][part] == best[part]) for part in best])
        for name in rows
    ]
    return table("Average accuracy over seen and unseen tasks, %", ["method", "seen", "unseen"], lines)


def _pair(findings: Findings, pair: Mapping[str, Any], rows: Sequence[str]) -> Html:
    names = pair["unseen"]
    scores = {
        name: [
            *(pair["rows"][name]["unseen"][task] for task in names),
            pair["rows"][name]["unseen_mean"],
            pair["rows"][name]["seen_mean"],
        ]
        for name in rows
        if name in pair["rows"]
    }
    best = [_highest(list(scores), {name: values[i] for name, values in scores.items()}) for i in range(len(names) + 2)]
    lines = [
        _line(
            findings,
            name,
            [Cell(percent(value), value == top) for value, top in zip(values, best, strict=True)],
        )
        for name, values in scores.items()
    ]
    caption = f"Accuracy where {listed(names)} are unseen, %"
    return details(
        f"Without {listed(names)}", table(caption, ["method", *names, "mean unseen", "mean seen"], lines), is_open=False
    )


def _line(findings: Findings, name: str, cells: list[Cell]) -> Line:
    if name in REFERENCES:
        cells = [Cell(cell.content) for cell in cells]
    return Line(findings.title(name), cells, class_=findings.class_of(name))


def _highest(rows: Sequence[str], values: Mapping[str, float]) -> float | None:
    return max((values[name] for name in rows if name not in REFERENCES), default=None)
