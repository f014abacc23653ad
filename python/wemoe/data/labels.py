"""Labels of data files as numbers: which names there are, and who says so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from wemoe.data.tables import Row

NUMBER = re.compile(r"\s*[+-]?\d+\s*")


def label_numbers(rows: Sequence[Row], column: str, names: Sequence[str], num_labels: int) -> Tensor:
    """Return the label of every row, in 0 .. num_labels - 1 [len(rows)].

    A label is one of the names or a number: in JSON an integer, elsewhere digits that are not themselves a name.

    Args:
        rows: labelled samples.
        column: of the label.
        names: of the labels, in their order; may be empty where labels are numbers.
        num_labels: C.

    Raises:
        ValueError: a label is neither a name nor a number in that range, or there is no such column.
    """
    number_of = {name: number for number, name in enumerate(names)}
    return torch.tensor([_number(row, column, number_of, num_labels) for row in rows])


def distinct_names(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """Return the labels of some rows that are names, not numbers, in sorted order."""
    values = {row.value(column) for row in rows if isinstance(row.value(column), str)}
    return tuple(sorted(value for value in values if not NUMBER.fullmatch(value)))


def are_told(names: Sequence[str]) -> bool:
    """Whether a configuration's names of labels say something; `LABEL_0` and so on are what transformers makes up."""
    return any(name != f"LABEL_{number}" for number, name in enumerate(names))


def _number(row: Row, column: str, number_of: dict[str, int], num_labels: int) -> int:
    value = row.value(column)
    if isinstance(value, str) and value in number_of:
        return number_of[value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_digits = isinstance(value, str) and NUMBER.fullmatch(value) is not None
    if (is_number or is_digits) and 0 <= int(value) < num_labels:
        return int(value)
    raise ValueError(
        f"{row.place(column)} must be {_expected(number_of, num_labels)}; found {value!r}{_nearest(value, number_of)}"
    )


def _expected(number_of: dict[str, int], num_labels: int) -> str:
    numbers = f"a number from 0 to {num_labels - 1}"
    if not number_of:
        return numbers
    shown = ", ".join(map(repr, list(number_of)[:10])) + (", ..." if len(number_of) > 10 else "")
    return f"a label's name ({shown}) or {numbers}"


def _nearest(value: object, number_of: dict[str, int]) -> str:
    close = difflib.get_close_matches(value, number_of, n=1) if isinstance(value, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""
