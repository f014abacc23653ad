"""A pack: image tasks in five disjoint parts each, in one file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wemoe.data.vision8.cutting import Cut
from wemoe.data.vision8.drawing import Pixels
from wemoe.files import replacing_file

PARTS = ("pretraining", "train", "validation", "unlabeled", "test")


@dataclass(frozen=True)
class Part:
    """Images [S, H, W] or [S, H, W, 3] with their labels [S]."""

    images: Pixels
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ImageTask:
    """One task: the names of its labels, and by name its parts, no two of which share an image."""

    label_names: tuple[str, ...]
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Sizes:
    """How many images of a task each part takes at most."""

    pretraining: int = 300
    train: int = 1600
    validation: int = 200
    unlabeled: int = 500
    test: int = 600


def divide(name: str, cut: Cut, sizes: Sizes) -> ImageTask:
    """Divide a task's images into parts, at random and yet the same every time: by hashes of names and numbers.

    Validation and unlabeled images share no group (an emoji by several artists, windows of a photo that overlap) with
    those that models are trained on.

    Args:
        name: of the task.
        cut: its images.
        sizes: of the parts; the training part takes what is left where there are fewer.
    """
    rows = range(len(cut.labels))
    test = _shuffled(name, [row for row in rows if cut.is_test[row]])
    others = sorted(
        (row for row in rows if not cut.is_test[row]),
        key=lambda row: (_hash(f"{name} group {cut.groups[row]}"), _hash(f"{name} {row}")),
    )
    held = _whole_groups(others, cut.groups, sizes.validation + sizes.unlabeled)
    apart, training = _shuffled(name, others[:held]), _shuffled(name, others[held:])
    chosen = {
        "pretraining": training[: sizes.pretraining],
        "train": training[sizes.pretraining :][: sizes.train],
        "validation": apart[: sizes.validation],
        "unlabeled": apart[sizes.validation :][: sizes.unlabeled],
        "test": test[: sizes.test],
    }
    parts = {part: Part(cut.images[chosen[part]], cut.labels[chosen[part]]) for part in PARTS}
    return ImageTask(cut.names, parts)


def _whole_groups(rows: Sequence[int], groups: Sequence[str], count: int) -> int:
    """The least number of rows, from `count` on, after which a new group begins."""
    while 0 < count < len(rows) and groups[rows[count]] == groups[rows[count - 1]]:
        count += 1
    return min(count, len(rows))


def _shuffled(name: str, rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: _hash(f"{name} {row}"))


def _hash(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def save_pack(tasks: Mapping[str, ImageTask], path: str | os.PathLike[str]) -> None:
    """Write a pack; the file appears whole."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, task in tasks.items():
        arrays[f"{name}/label_names"] = np.array(task.label_names)
        for part, content in task.parts.items():
            arrays[f"{name}/{part}/images"] = content.images
            arrays[f"{name}/{part}/labels"] = content.labels.astype(np.uint8)
    with replacing_file(path) as staging, staging.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_pack(path: str | os.PathLike[str]) -> dict[str, ImageTask]:
    """Read a pack, its tasks in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no pack, or is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"a pack of images must be a file; found none at {str(path)!r}")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [key.removesuffix("/label_names") for key in arrays.files if key.endswith("/label_names")]
            return {name: _task(name, arrays) for name in names}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} must be a pack of images; it is none, or damaged: {error}") from error


def _task(name: str, arrays: Mapping[str, NDArray[np.generic]]) -> ImageTask:
    parts = {}
    for part in PARTS:
        images, labels = arrays[f"{name}/{part}/images"], arrays[f"{name}/{part}/labels"].astype(np.int64)
        if images.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(f"{name}/{part} has {images.dtype} images {images.shape} and {len(labels)} labels")
        parts[part] = Part(images.astype(np.uint8), labels)
    return ImageTask(tuple(map(str, arrays[f"{name}/label_names"])), parts)
