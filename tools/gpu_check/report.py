"""One report of a run, for people (Markdown) and for programs (JSON)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_check.files import write_text
from gpu_check.stages import Outcome

SHOWN_DIFFERENCES = 20


def write(folder: Path, about: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> None:
    """Writes report.json and report.md, each whole or not at all."""
    stages = {name: asdict(outcome) for name, outcome in outcomes.items()}
    write_text(folder / "report.json", json.dumps({**about, "stages": stages}, indent=1) + "\n")
    write_text(folder / "report.md", markdown(about, outcomes))


def markdown(about: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> str:
    """The report as Markdown: what ran where, a line for each stage, and then what each stage found."""
    lines = [f"# GPU check: {about['gpu']['name']}", ""]
    lines += table(("what", ""), [(name, value) for name, value in _facts(about)])
    lines += ["", "## Stages", ""]
    rows = [(name, o.status, f"{o.seconds:.0f} s", o.summary) for name, o in outcomes.items()]
    lines += table(("stage", "outcome", "took", "summary"), rows)
    for name, outcome in outcomes.items():
        found = _section(name, outcome.details)
        if found:
            lines += ["", f"## {name.capitalize()}", "", *found]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _facts(about: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    yield from ((name, about[name]) for name in ("started", "commit"))
    yield from about["gpu"].items()


def _section(name: str, details: Mapping[str, Any]) -> list[str]:
    lines = []
    if "error" in details:
        lines += ["```", *details["error"].splitlines(), "```", ""]
    if "differences" in details:
        shown = details["differences"][:SHOWN_DIFFERENCES]
        lines += [f"- {difference}" for difference in shown]
        lines += [f"- and {len(details['differences']) - len(shown)} more"] * (len(shown) < len(details["differences"]))
    if "tests" in details:
        lines += _tests(details["tests"])
    if "tools" in details:
        lines += table(("tool", "summary"), [(tool, found["summary"]) for tool, found in details["tools"].items()])
    if "methods" in details:
        lines += _benchmarks(details)
    return lines


def _tests(tests: Sequence[Mapping[str, str]]) -> list[str]:
    """Tests that did not pass, each with its reason, then the number of tests that passed by module."""
    others = [(t["name"], t["outcome"], t["reason"].splitlines()[0] if t["reason"] else "") for t in tests]
    others = [row for row in others if row[1] != "passed"]
    lines = [*table(("not passed", "outcome", "reason"), others), ""] if others else []
    modules: dict[str, list[bool]] = {}
    for test in tests:
        modules.setdefault(test["name"].partition("::")[0], []).append(test["outcome"] == "passed")
    return lines + table(("module", "passed", "of"), [(name, sum(m), len(m)) for name, m in modules.items()])


def _benchmarks(measured: Mapping[str, Any]) -> list[str]:
    """Ceilings, then a table for each case; times are medians of rounds that took the methods in turn."""
    ceilings = [(c["name"], f"{c['value']:.1f} {c['unit']}") for c in measured["ceilings"]]
    lines = table(("measured ceiling", ""), ceilings)
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for entry in measured["methods"]:
        cases.setdefault(entry["case"], []).append(entry)
    head = ("method", "median, ms", "IQR", "rounds", "of plain", "TFLOP/s", "GB/s", "predicted, ms")
    for case, entries in cases.items():
        lines += ["", f"### {case}", "", *table(head, map(_method, entries))]
    return lines


def _method(entry: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in entry:
        return (entry["method"], entry["error"], *[""] * 6)
    predicted = entry.get("predicted_seconds")
    return (
        entry["method"],
        f"{entry['seconds'] * 1e3:.3f}",
        f"{100 * entry['spread']:.0f} %",
        str(entry["rounds"]),
        f"{entry['ratio']:.2f}" if entry["ratio"] is not None else "",
        f"{entry['tflop_per_s']:.1f}",
        f"{entry['gb_per_s']:.0f}",
        f"{predicted * 1e3:.3f}" if predicted is not None else "",
    )
