"""The page: all sections that a folder's results have something for, in one file that needs no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wemoe.files import write_text
from wemoe.html_report.accuracy import accuracy_section
from wemoe.html_report.corruptions import corruptions_section
from wemoe.html_report.costs import costs_section
from wemoe.html_report.findings import Findings, read_findings
from wemoe.html_report.geometry import geometry_section
from wemoe.html_report.markup import Html, element, joined, paragraph
from wemoe.html_report.modes import modes_section
from wemoe.html_report.numbers import listed
from wemoe.html_report.predictions import predictions_section
from wemoe.html_report.routing import routing_section
from wemoe.html_report.settings import settings_section
from wemoe.html_report.style import STYLE
from wemoe.html_report.summary import summary_section, title_of
from wemoe.html_report.unseen import unseen_section

REPORT = "report.html"
SECTIONS: dict[str, Callable[[Findings], Html | None]] = {  # by name in the list of contents
    "In short": summary_section,
    "Accuracy": accuracy_section,
    "Costs": costs_section,
    "Routing modes": modes_section,
    "Unseen tasks": unseen_section,
    "Corruptions": corruptions_section,
    "Predicted classes": predictions_section,
    "Routing": routing_section,
    "Geometry": geometry_section,
    "Settings": settings_section,
}


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` of the results that a folder holds.

    Args:
        folder: with any of `comparison.json`, `evaluation.json`, `unseen.json` and `corruptions.json`.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: the folder holds no results.
        NotADirectoryError: it is no folder.
        ValueError: a file of results is damaged.
        OSError: the report cannot be written.
    """
    findings = read_findings(folder)
    path = Path(folder) / REPORT
    write_text(path, page(findings))
    return path


def page(findings: Findings) -> str:
    """The whole page."""
    title = title_of(findings)
    parts = {name: make(findings) for name, make in SECTIONS.items()}
    sections = {name: part for name, part in parts.items() if part is not None}
    links = [element("a", name, href=f"#{_id_of(part)}") for name, part in sections.items()]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", title),
            paragraph(_lead(findings), class_="lead"),
            element("nav", *links, aria_label="Contents"),
        ),
        element("main", *sections.values()),
        element(
            "footer", "Made by wemoe report from the results beside this file; it needs no other file and no network."
        ),
    )
    return joined([Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), "\n"])


def _id_of(part: Html) -> str:
    """The name that links to a section point to."""
    return part.partition('id="')[2].partition('"')[0]


def _lead(findings: Findings) -> str:
    """What one reads here, in a sentence."""
    held = {
        "all methods compared": bool(findings.rows),
        "unseen tasks": findings.unseen is not None,
        "corrupted images": findings.corruptions is not None,
        "a look at how samples are routed": bool(findings.routing),
    }
    text = listed([name for name, is_there in held.items() if is_there])
    seeds = [] if findings.evaluation is None else findings.evaluation["seeds"]
    return f"{text[:1].upper()}{text[1:]}" + (f", over {len(seeds)} seeds." if len(seeds) > 1 else ".")
