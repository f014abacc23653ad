"""The section of settings: what the results were made from, with which options, and on which machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wemoe.html_report.findings import Findings
from wemoe.html_report.markup import Html, Line, details, element, paragraph, section, table
from wemoe.html_report.numbers import listed


def settings_section(findings: Findings) -> Html:
    """Everything that one needs to make the results again."""
    return section(
        "settings",
        "Settings and environment",
        paragraph(
            "What the numbers depend on. The same seed on the same machine gives the same accuracies to the last "
            "bit; times and memory differ from run to run."
        ),
        table("The experiment", ["setting", "value"], [Line(*pair) for pair in _experiment(findings)], class_="facts"),
        table(
            "The machine that the results come from",
            ["part", "value"],
            [Line(name, [_told(value)]) for name, value in _environment(findings)],
            class_="facts",
        ),
        *_options(findings),
    )


def _experiment(findings: Findings) -> list[tuple[str, list[str]]]:
    first = findings.files[0]
    facts: dict[str, Any] = {"tasks": ", ".join(findings.tasks)}
    facts |= {key.replace("_", " "): value for key, value in findings.origin.items() if value and key != "tasks"}
    seeds = first.get("seeds", [first["seed"]] if "seed" in first else [])
    facts |= {"seeds": listed(seeds), "steps of adaptation": first.get("steps")}
    if findings.corruptions is not None:
        held = findings.corruptions
        facts["corruptions"] = f"severity {held['severity']}, {held['library']}"
    return [(name, [_told(value)]) for name, value in facts.items() if value not in (None, "")]


def _environment(findings: Findings) -> list[tuple[str, Any]]:
    held: Mapping[str, Any] = next(
        (results["environment"] for results in findings.files if results.get("environment")), {}
    )
    facts: dict[str, Any] = {}
    for name, value in held.items():
        if isinstance(value, Mapping) and name in ("packages", "cpu"):
            facts |= {f"cpu {key}" if name == "cpu" else key: each for key, each in value.items()}
        else:
            facts[name] = value
    return list(facts.items())


def _options(findings: Findings) -> list[Html]:
    if not findings.costs:
        return []
    lines = [Line(element("code", name), [_set(row["options"])]) for name, row in findings.costs.items()]
    searched = {
        name: [key for key, value in row.get("settings", {}).items() if isinstance(value, list)]
        for name, row in findings.costs.items()
    }
    told = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in searched.items() if keys)
    note = [paragraph(f"Searched on validation data: {told}.", class_="note")] if told else []
    return [
        details("Options of every row", table("Options of every row", ["row", "options"], lines, class_="facts"), *note)
    ]


def _set(options: Mapping[str, Any]) -> str:
    """A row's options, without those that are not used."""
    return ", ".join(f"{key} {_told(value)}" for key, value in options.items() if value is not None) or "none"


def _told(value: Any) -> str:
    """A value from JSON in words."""
    if isinstance(value, Mapping):
        told = {key: _told(each) for key, each in value.items() if each is not None}
        return ", ".join(text if key == "name" else f"{key.replace('_', ' ')} {text}" for key, text in told.items())
    if isinstance(value, list):
        return ", ".join(map(_told, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
