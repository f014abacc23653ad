"""The section of routing modes: per sample or averaged over the batch, in batches of one task or of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wemoe.html_report.accuracy import row_head
from wemoe.html_report.findings import Figure, Findings
from wemoe.html_report.markup import Cell, Html, Line, paragraph, section, table
from wemoe.html_report.numbers import MISSING, with_spread

MODES = {"per_sample": "per sample", "batch_averaged": "batch-averaged"}
BATCHES = {"single": "one task a batch", "mixed": "mixed batches"}


def routing_modes(findings: Findings) -> dict[str, Mapping[str, Any]]:
    """By routed row, its averages in both modes and both kinds of batches, and how many predictions changed."""
    if findings.evaluation is not None:
        found = {name: row.get("modes") for name, row in findings.evaluation["rows"].items()}
    else:
        found = {name: _averaged(row["modes"]) for name, row in findings.costs.items() if row.get("modes")}
    return {name: modes for name, modes in found.items() if modes}


def modes_section(findings: Findings) -> Html | None:
    """Whether what else is in the batch matters."""
    rows = routing_modes(findings)
    if not rows:
        return None
    head = ["method"]
    for mode in MODES.values():
        head += [f"{mode}, {batches}" for batches in BATCHES.values()] + [f"{mode}, changed"]
    lines = [
        Line(
            row_head(findings.rows[name]),
            [cell for mode in MODES for cell in _cells(modes, mode)],
            class_=findings.class_of(name),
        )
        for name, modes in rows.items()
    ]
    return section(
        "modes",
        "Does the rest of the batch matter?",
        paragraph(
            "A router reads the sample that it routes, so a prediction should be the same whatever else is in the "
            "batch. The published code averages routing weights over the batch instead, and scores batches of one "
            "task only, which tells the router the task. Here every routed model is scored both ways, on batches of "
            "one task and on batches that mix all tasks."
        ),
        table("Average accuracy by routing and batches, %, and predictions that change", head, lines),
        paragraph(
            "Changed: test samples whose predicted class differs between batches of one task and mixed "
            f"batches{_out_of(findings, rows)}. All other sections are routed per sample.",
            class_="note",
        ),
    )


def _out_of(findings: Findings, rows: Mapping[str, Any]) -> str:
    samples = next((modes["samples"] for modes in rows.values() if "samples" in modes), None)
    averaged = findings.evaluation is not None and len(findings.evaluation["seeds"]) > 1
    total = "" if samples is None else f", of {samples:,}"
    return total + (", as a mean over the seeds" if averaged else "")


def _averaged(modes: Mapping[str, Any]) -> dict[str, Any]:
    """The modes of one run in the form of an evaluation's: averages over the tasks, without a spread."""
    scores = {
        mode: {
            batches: {"mean": sum(accuracy.values()) / len(accuracy), "spread": None}
            for batches, accuracy in modes[mode].items()
        }
        for mode in MODES
    }
    return scores | {"changed": modes["changed"], "samples": modes["samples"]}


def _cells(modes: Mapping[str, Any], mode: str) -> list[Cell]:
    figures = [Figure(**modes[mode][batches]) for batches in BATCHES]
    changed = modes["changed"].get(mode)
    number = MISSING if changed is None else f"{round(changed, 1):,g}"
    scores = [Cell(with_spread(figure.mean, figure.spread)) for figure in figures]
    return [*scores, Cell(number, class_="warning" if changed and mode == "per_sample" else None)]
