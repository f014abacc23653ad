"""The section of costs: size, memory and time of every row, and how its batches are routed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wemoe.html_report.findings import Findings
from wemoe.html_report.markup import Cell, Html, Line, element, paragraph, section, table
from wemoe.html_report.numbers import MISSING, megabytes
from wemoe.text_tables import short


def costs_section(findings: Findings) -> Html | None:
    """What each row takes to make, to keep and to run."""
    if not findings.costs:
        return None
    head = ["method", "parameters", "trained", "memory, MB", "making, s", "search, s", "scoring, s", "inference"]
    lines = [
        Line(_head(findings, name, row), _cells(row), class_=findings.class_of(name))
        for name, row in findings.costs.items()
    ]
    return section(
        "costs",
        "What it costs",
        paragraph(
            "Parameters are those of the model that serves all tasks (of all experts together for the individual "
            "ones), heads not counted; trained are the numbers that the merge itself learns, on unlabeled inputs. "
            "Memory is the growth of the process's memory at its peak while the model is made, beside base and "
            "experts. Making a model includes its adaptation, a search over options on validation data is told "
            "apart. Inference is the time of a forward beside the pre-trained model's, on one thread, the median of "
            "paired runs: 1.00 is as fast."
        ),
        table("Size, memory and time of each row", head, lines),
        paragraph(
            f"Measured in one run, of seed {findings.comparison['seed']}, on the machine named under settings."
            if findings.comparison is not None
            else "",
            class_="note",
        ),
    )


def _head(findings: Findings, name: str, row: Mapping[str, Any]) -> Html:
    objective = [] if row["objective"] is None else [" ", element("small", row["objective"], class_="objective")]
    return element("span", row["label"], *objective, title=name)


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    seconds = row["seconds"]
    texts = [
        short(row["parameters"]),
        short(row["trained_parameters"]),
        megabytes(row["peak_memory"]),
        f"{seconds['making']:.1f}",
        f"{seconds['search']:.1f}" if seconds["search"] else MISSING,
        f"{seconds['scoring']:.1f}",
        f"{row['inference_cost']:.2f}",
    ]
    return [Cell(text) for text in texts]
