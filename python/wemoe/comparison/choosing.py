"""Which rows a comparison has, and with which options: what comes from outside is checked here, before any work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wemoe.comparison.rows import ROWS, Options, Row
from wemoe.config_sections import nearest
from wemoe.suites import Suite

REFERENCES = ("pretrained", "individual")


@dataclass(frozen=True)
class CompareSettings:
    """What decides a comparison beside its suite.

    Attributes:
        seed: of adaptation and of all else that is drawn.
        steps: of adaptation, wherever a row's own options do not say.
        methods: by row, the options that differ from the row's own, a list of numbers to search them; None for all
            rows. Base and experts are always there, since the others are told by them.

    Raises:
        ValueError: `steps` is below 1.
    """

    seed: int = 0
    steps: int = 50
    methods: Mapping[str, Options] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; found {self.steps}")

    def rows(self) -> dict[str, Row]:
        """The rows, in the registry's order, with the options that they will have.

        Raises:
            ValueError: a row or an option is unknown, or an option has a value of the wrong kind.
        """
        methods = {name: {} for name in ROWS} if self.methods is None else self.methods
        for name in methods:
            _check_known(name, ROWS, "methods", "row")
        rows = {}
        for name, row in ROWS.items():
            if name in methods or name in REFERENCES:
                steps = {"steps": self.steps} if row.kind == "learned" else {}
                whole = row.with_options(steps)
                rows[name] = whole.with_options(_checked_options(name, whole.options, methods.get(name) or {}))
        return rows


def check_data(suite: Suite, rows: Mapping[str, Row]) -> None:
    """Check that the suite has the data that the rows need.

    Raises:
        ValueError: there are no data for an expert, or a task lacks the part that a row needs.
    """
    without = [task for task in suite.experts if task not in suite.tasks]
    if without:
        raise ValueError(f"tasks must hold the data of every expert; missing: {without}")
    for name, row in rows.items():
        needs_train = row.options.get("class_shares") is not None
        wanted = {"test": True, "unlabeled": row.reads_inputs, "validation": bool(row.grid), "train": needs_train}
        for part in (part for part, needed in wanted.items() if needed):
            missing = [task for task, parts in suite.tasks.items() if getattr(parts, part) is None]
            if missing:
                hint = f" (or one value instead of a list for {sorted(row.grid)})" if part == "validation" else ""
                raise ValueError(f"row {name!r} needs the {part} part of every task{hint}; missing for {missing}")


def _checked_options(row: str, own: Options, options: Options) -> dict[str, Any]:
    for option in options:
        _check_known(option, own, f"methods.{row}", "option")
    return {option: _checked(f"methods.{row}.{option}", own[option], value) for option, value in options.items()}


def _checked(path: str, own: Any, value: Any) -> Any:
    """A value of the kind of the row's own: text for text, and a number or a list of numbers for any of the two."""
    if isinstance(own, str):
        if not isinstance(value, str):
            raise ValueError(f"{path} must be text, {own!r} say; found {value!r}")
        return value
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = [_number(member) for member in (value if is_list else [value])]
    if None in numbers or not numbers:
        raise ValueError(f"{path} must be a number, or a list of numbers to search; found {value!r}")
    return numbers if is_list else numbers[0]


def _number(value: Any) -> int | float | None:
    """A number, or one that is written as text, as YAML reads 1e-3; None for all else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_known(name: str, known: Collection[str], where: str, kind: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: no {kind} is called {name!r}{nearest(name, known)}")
