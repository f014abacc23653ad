"""The parts of a task's data as they are found, in files, folders or data sets, before a model reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wemoe.data.batches import Samples, drawn_rows
from wemoe.data.hub_datasets import DatasetImages, Split, load_split
from wemoe.data.image_folders import class_names, labelled_rows, unlabeled_rows
from wemoe.data.labels import distinct_names
from wemoe.data.readers import ImageReader, Reader
from wemoe.data.tables import Row, read_rows
from wemoe.task_config import DatasetConfig, Part, TaskConfig

LABELLED: tuple[Part, ...] = ("train", "validation", "test")
ALL_PARTS: tuple[Part, ...] = (*LABELLED, "unlabeled")


@dataclass(frozen=True)
class Found:
    """One part of a task's data.

    Attributes:
        rows: with labels, and with inputs but for the images of a data set.
        names: of the labels, in the order that the data give them; empty where they give none.
        split: of a data set, where the part is one.
    """

    rows: Sequence[Row]
    names: tuple[str, ...] = ()
    split: Split | None = None

    def at_most(self, count: int | None) -> Found:
        """Return some of the rows, the same ones each time, drawn at random; all of them where there are no more."""
        if count is None or count >= len(self.rows):
            return self
        drawn = drawn_rows(len(self.rows), count)
        split = None if self.split is None else replace(self.split, data=self.split.data.select(drawn))
        return Found([self.rows[row] for row in drawn], self.names, split)

    def samples(self, reader: Reader) -> Samples:
        """Return the samples; errors are those of the reader."""
        if self.split is not None and isinstance(reader, ImageReader):
            return DatasetImages(self.split, reader.column, reader.processor)
        return reader.read(self.rows)


def find_parts(name: str, config: TaskConfig, parts: Collection[Part], *, knows_labels: bool) -> dict[Part, Found]:
    """Find the parts of a task that are needed.

    Args:
        name: of the task, for messages.
        config: says where they are.
        parts: that are wanted, as far as the task has them; what is adapted on is among them where `unlabeled` is.
        knows_labels: whether the names of the labels are known. If not, and if the data do not say, all labelled parts
            are needed, for the names are to be found in them.

    Raises:
        ImportError: a data set is named, and `datasets` is not installed.
        FileNotFoundError: a file or a folder is missing.
        ValueError: one is empty or damaged, or there is no such data set.
    """
    wanted = set(parts)
    if "unlabeled" in wanted and config.adapts_on is not None:
        wanted.add(config.adapts_on)
    found = {part: each for part in ALL_PARTS if part in wanted and (each := _find(name, config, part)) is not None}
    if not knows_labels and not own_names(found):
        rest = [part for part in LABELLED if part not in found]
        found |= {part: each for part in rest if (each := _find(name, config, part)) is not None}
    return found


def own_names(parts: dict[Part, Found]) -> tuple[str, ...]:
    """Return the names that the data themselves give to the labels, in their order; empty where they give none."""
    return next((found.names for found in parts.values() if found.names), ())


def names_in_rows(parts: dict[Part, Found], label: str) -> tuple[str, ...]:
    """Return the labels of the labelled parts that are names, not numbers, in sorted order."""
    return distinct_names([row for part in LABELLED if part in parts for row in parts[part].rows], label)


def _find(name: str, config: TaskConfig, part: Part) -> Found | None:
    sources: tuple[Path, ...] | None = getattr(config, part)
    if sources is None:
        return None
    key = f"tasks.{name}.{part}"
    found = (
        _find_rows(config, sources, part)
        if config.dataset is None
        else _find_split(config, config.dataset, "+".join(map(str, sources)), key)
    )
    return found.at_most(config.samples.get(part))


def _find_rows(config: TaskConfig, sources: Sequence[Path], part: Part) -> Found:
    rows = [row for source in sources for row in _rows_of(source, config, part)]
    folders = [source for each in LABELLED for source in getattr(config, each) or () if not source.suffix]
    return Found(rows, class_names(folders))


def _find_split(config: TaskConfig, dataset: DatasetConfig, split: str, key: str) -> Found:
    found = load_split(dataset, split, key)
    columns = () if config.image_column is not None else config.columns
    return Found(found.rows(columns, config.label), found.label_names(config.label), found)


def _rows_of(source: Path, config: TaskConfig, part: Part) -> list[Row]:
    image = config.image_column
    if source.suffix or image is None:
        return read_rows([source])
    return unlabeled_rows(source, image) if part == "unlabeled" else labelled_rows(source, image, config.label)
