"""The section of predicted classes on the tasks' own test data."""

from __future__ import annotations

from wemoe.html_report.accuracy import row_head
from wemoe.html_report.findings import Findings
from wemoe.html_report.histograms import histogram
from wemoe.html_report.markup import Html, Line, details, paragraph, section, table


def predictions_section(findings: Findings) -> Html | None:
    """Which classes each method gives."""
    rows = {name: row["predictions"] for name, row in findings.costs.items() if row.get("predictions")}
    if findings.comparison is None or not rows:
        return None
    tasks = list(findings.comparison["tasks"])
    classes = findings.comparison.get("classes", {})
    head = ["method", *(f"{task} ({classes[task]})" if task in classes else task for task in tasks)]
    lines = [
        Line(
            row_head(findings.rows[name]) if name in findings.rows else name,
            [histogram(predictions[task]) for task in tasks],
            class_=findings.class_of(name),
        )
        for name, predictions in rows.items()
    ]
    return section(
        "predictions",
        "Predicted classes",
        paragraph(
            "A bar for each class of a task, as high as the class is often predicted on test data, the most "
            "frequent one at full height; in brackets, the number of classes. A method that has collapsed gives one "
            "class or a few whatever it is shown, which an accuracy alone does not tell."
        ),
        details("Predicted classes of all methods", table("Predicted classes on test data", head, lines)),
    )
