"""Rows of data files: JSON Lines, CSV and TSV, read whole, every error with file, line and column.

A TSV file is split at tabs and nothing else: quotes in it are part of the text. A CSV file is quoted as usual.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One sample of a data file.

    Attributes:
        file: that it stands in; an image that is a row by itself, or the name of a data set.
        line: its line there, from 1; the last one of a row that has several. None of an image.
        values: by column.
        unit: what `line` counts.
    """

    file: Path
    line: int | None
    values: Mapping[str, Any]
    unit: str = "line"

    def value(self, column: str) -> Any:
        """Return what stands in a column.

        Raises:
            ValueError: there is no such column.
        """
        if column not in self.values:
            raise ValueError(f"{self.place(column)} must be there; found the columns {list(self.values)}")
        return self.values[column]

    def text(self, column: str) -> str:
        """Return the text of a column.

        Raises:
            ValueError: there is no such column, or it holds something else.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise ValueError(f"{self.place(column)} must be a text; found {value!r}")
        return value

    def place(self, column: str) -> str:
        """Say where a column of this row is, for messages."""
        place = f"{self.file}" if self.line is None else f"{self.file}, {self.unit} {self.line}"
        return f"{place}: column {column!r}"


def read_rows(files: Sequence[Path]) -> list[Row]:
    """Read files one after the other, each by its name's end (`wemoe.task_config.SUFFIXES`); blank lines are no rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is empty, or not what its name's end says.
    """
    return [row for file in files for row in _rows_of(file)]


def _rows_of(file: Path) -> list[Row]:
    if not file.is_file():
        raise FileNotFoundError(f"a task's data must be a file; found none at {str(file)!r}")
    try:
        rows = list(READERS[file.suffix.lower()](file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be UTF-8 text; found: {error}") from error
    if not rows:
        raise ValueError(f"{file} must hold at least one sample; found none")
    return rows


def _json_lines(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} must be JSON; found: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f"{file}, line {number} must be a JSON object; found {type(values).__name__}")
            yield Row(file, number, values)


def _comma_separated(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        yield from _separated(file, csv.reader(lines, strict=True))


def _tab_separated(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        yield from _separated(file, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _separated(file: Path, reader: Any) -> Iterator[Row]:
    """Yield the rows after the first one, which names the columns."""
    columns: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if columns is None:
                columns = _distinct(file, cells)
            elif len(cells) != len(columns):
                raise ValueError(
                    f"{file}, line {reader.line_num} must have as many columns as the first line, {len(columns)}; "
                    f"found {len(cells)}"
                )
            else:
                yield Row(file, reader.line_num, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} must be well formed; found: {error}") from error


def _distinct(file: Path, columns: list[str]) -> list[str]:
    if len(set(columns)) != len(columns):
        raise ValueError(f"{file}, line 1 must name columns that are distinct; found {columns}")
    return columns


READERS = {".jsonl": _json_lines, ".csv": _comma_separated, ".tsv": _tab_separated}
