"""The section of geometry: how far fine-tuning moved each module, and whether tasks moved it the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wemoe.geometry_tables import joined_cosines, modules_by_kind
from wemoe.html_report.findings import Findings
from wemoe.html_report.markup import Cell, Html, Line, details, paragraph, section, table
from wemoe.html_report.numbers import MISSING


def geometry_section(findings: Findings) -> Html | None:
    """Cosines and lengths of the task vectors."""
    geometry = None if findings.comparison is None else findings.comparison.get("geometry")
    if not geometry:
        return None
    (whole, indices), *kinds = modules_by_kind(geometry).items()
    return section(
        "geometry",
        "How the experts differ from the base",
        paragraph(
            "A task vector is an expert's weights minus the pre-trained ones. The cosine between two of them tells "
            "whether two tasks moved the weights the same way (1), independently (0) or against each other (-1): "
            "the closer to 0, the less their sum makes them disturb each other. The length (L2) tells how far a "
            "task moved a module."
        ),
        _cosines(geometry, whole, indices),
        *(details(f"Cosines in {kind}", _cosines(geometry, kind, indices)) for kind, indices in kinds),
        details("Lengths of task vectors by module", _lengths(geometry)),
        paragraph(
            "All parameters of a module count as one vector, without heads; sums are taken in double precision.",
            class_="note",
        ),
    )


def _cosines(geometry: Mapping[str, Any], kind: str, modules: Sequence[int]) -> Html:
    tasks = list(geometry["l2"])
    lines = [
        Line(task, [_cosine(value, is_own=row == column) for column, value in enumerate(values)])
        for row, (task, values) in enumerate(zip(tasks, joined_cosines(geometry, modules), strict=True))
    ]
    return table(f"Cosines between task vectors: {kind}", ["task", *tasks], lines, class_="heatmap")


def _cosine(value: float | None, is_own: bool) -> Cell:
    if value is None:
        return Cell(MISSING, class_="heat")
    return Cell(f"{value:.2f}".replace("-", "−"), heat=None if is_own else value, class_="heat")


def _lengths(geometry: Mapping[str, Any]) -> Html:
    lengths = geometry["l2"]
    most = max((length for values in lengths.values() for length in values), default=0.0) or 1.0
    lines = [
        Line(
            module,
            [Cell(f"{values[index]:.2f}", heat=values[index] / most, class_="heat") for values in lengths.values()],
        )
        for index, module in enumerate(geometry["modules"])
    ]
    return table("Lengths (L2) of task vectors", ["module", *lengths], lines, class_="heatmap")
