"""The results of a comparison as tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wemoe.text_tables import aligned, short

MEASURED = (
    "Accuracies are in percent, on test data. The normalised average divides each task's accuracy by that of its own "
    "expert. Options in brackets were searched on validation data. Trained: numbers that the merge trains, on "
    "unlabeled inputs. Memory: peak growth of the process's resident memory while the model is made, beside base and "
    "experts. Time: of making the model once, adaptation and the experts' answers included, a search not. Inference: "
    "time of a forward on one thread beside the base's, median of paired runs."
)


def terminal(results: Mapping[str, Any]) -> str:
    """Lay the results out as text: one row a line, aligned, in as few columns of text as they need."""
    tasks = [task[:6] for task in results["tasks"]]
    head = ["", *tasks, "avg", "norm.", "params", "trained", "MB", "s", "infer."]
    rows = [head] + [[name, *_values(row, results["tasks"])] for name, row in results["rows"].items()]
    return "\n".join([heading(results), "", *aligned(rows, gap=" ")])


def markdown(results: Mapping[str, Any]) -> str:
    """Lay the results out as a Markdown document."""
    tasks = results["tasks"]
    head = ["method", *tasks, "average", "normalised", "parameters", "trained", "memory, MB", "time, s", "inference"]
    rows = [[name + _searched(row), *_values(row, tasks)] for name, row in results["rows"].items()]
    lines = table_lines([head, *rows])
    return "\n".join([f"# {heading(results)}", "", machine(results), "", *lines, "", MEASURED, ""])


def heading(results: Mapping[str, Any]) -> str:
    """One line that says what was compared, in how many steps of adaptation, with which seed."""
    merges = sum(row["kind"] != "reference" for row in results["rows"].values())
    steps = sorted({row["options"]["steps"] for row in results["rows"].values() if "steps" in row["options"]})
    adaptation = f"{' or '.join(map(str, steps))} steps of adaptation" if steps else "no adaptation"
    return f"{merges} merges of {len(results['tasks'])} experts: {adaptation}, seed {results['seed']}"


def machine(results: Mapping[str, Any]) -> str:
    """One line that says what the numbers were computed with."""
    environment = results["environment"]
    cpu = environment["cpu"]
    return (
        f"wemoe {environment['wemoe']}, torch {environment['packages']['torch']}, {cpu['model']}, "
        f"{cpu['threads']} of {cpu['cores']} cores."
    )


def _values(row: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    return [
        *(_percent(row["accuracy"][task]) for task in tasks),
        _percent(row["average"]),
        _percent(row["normalised"]),
        short(row["parameters"]),
        short(row["trained_parameters"]),
        _megabytes(row["peak_memory"]),
        f"{row['seconds']['making']:.1f}",
        f"{row['inference_cost']:.2f}",
    ]


def _searched(row: Mapping[str, Any]) -> str:
    found = {name: row["options"][name] for name, value in row["settings"].items() if isinstance(value, list)}
    return f" ({', '.join(f'{name} {value:g}' for name, value in found.items())})" if found else ""


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows of as many cells out as the lines of a table in Markdown; the first row is its head."""
    head, *others = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *others)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 10**6:.0f}"
