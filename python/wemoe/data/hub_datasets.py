"""Data sets of the package `datasets`, of the Hub or of a folder; images are decoded when a batch is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from wemoe.data.images import Colours, ProcessedImages
from wemoe.data.tables import Row
from wemoe.task_config import DatasetConfig

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes


@dataclass(frozen=True)
class Split:
    """Some rows of a data set.

    Attributes:
        title: data set and split, for messages.
        data: a `datasets.Dataset`.
    """

    title: str
    data: Any

    def label_names(self, column: str) -> tuple[str, ...]:
        """Return the names of the labels in the order of their numbers, where the data set says."""
        feature = self.data.features.get(column)
        return tuple(getattr(feature, "names", None) or ())

    def rows(self, columns: Sequence[str], label: str) -> list[Row]:
        """Return some columns, those that there are, row by row; labels that have names are names."""
        chosen = [column for column in dict.fromkeys((*columns, label)) if column in self.data.column_names]
        names = self.label_names(label)
        values = {column: list(self.data[column]) for column in chosen}
        if names:
            values[label] = [names[number] if _is_number(number, names) else number for number in values[label]]
        file = Path(self.title)
        return [
            Row(file, number, {column: found[number] for column, found in values.items()}, "row")
            for number in range(len(self.data))
        ]


@dataclass(frozen=True)
class DatasetImages(ProcessedImages):
    """Images of a data set, decoded one by one.

    Attributes:
        split: that they are in.
        column: of the image.
        processor: the model's own.
    """

    split: Split
    column: str
    processor: BaseImageProcessor

    def __post_init__(self) -> None:
        columns = self.split.data.column_names
        if self.column not in columns:
            raise ValueError(f"{self.split.title} must have the column {self.column!r} of images; found {columns}")

    def __len__(self) -> int:
        return len(self.split.data)

    def colours(self, row: int) -> Colours:
        """Decode one image [H, W, 3].

        Raises:
            ValueError: there is something else in the column.
        """
        found = self.split.data[row][self.column]
        if not isinstance(found, Image.Image):
            raise ValueError(
                f"{self.split.title}, row {row}: column {self.column!r} must be an image; found {type(found).__name__}"
            )
        return np.asarray(found.convert("RGB"))


def load_split(config: DatasetConfig, split: str, label: str) -> Split:
    """Load a split, or a part of one.

    Args:
        config: says which data set.
        split: as `datasets` has it: `test`, `train[-500:]`, `train[:10%]+test`.
        label: the key that names the split, for messages.

    Raises:
        ImportError: the package is not installed.
        ValueError: there is no such data set, configuration or split, it is empty, or a script makes it.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{label} is of a data set, which needs: pip install 'wemoe[datasets]'") from error
    try:
        if any((Path(config.name) / name).is_file() for name in SAVED):
            data = _saved(datasets, datasets.load_from_disk(config.name), split)
        else:
            data = datasets.load_dataset(config.name, config.config, split=split, revision=config.revision)
    except (ValueError, KeyError, AssertionError, FileNotFoundError) as error:
        raise ValueError(f"{label} must be a split of a data set, {str(config)!r}; found {split!r}: {error}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{label} must be of a data set without a script; found {str(config)!r}: {error}. "
            "Of many the Hub has a copy without one, `revision: refs/convert/parquet`"
        ) from error
    if len(data) == 0:
        raise ValueError(f"{label} must hold at least one sample; found none in {split!r} of {str(config)!r}")
    return Split(f"{config}, {split}", data)


def _saved(datasets: Any, saved: Any, split: str) -> Any:
    """Take the rows of a split out of what `save_to_disk` has written: splits by name, or one of them."""
    parts = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
    sizes = {name: len(part) for name, part in parts.items()}
    wanted = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    chosen = [parts[each.splitname].select(range(each.from_, each.to)) for each in wanted]
    return datasets.concatenate_datasets(chosen)


def _is_number(found: object, names: Sequence[str]) -> bool:
    return isinstance(found, int) and 0 <= found < len(names)
