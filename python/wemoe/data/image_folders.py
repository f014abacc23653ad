"""Folders of images, with one folder for each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wemoe.data.tables import Row

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def class_names(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return the names of the folders in some folders, sorted as text: the classes in the order of their numbers.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    return tuple(sorted({folder.name for each in folders for folder in _folders_in(each)}))


def labelled_rows(folder: Path, image: str, label: str) -> list[Row]:
    """Return a row for every image of the classes' folders, at any depth.

    Args:
        folder: that holds the classes' folders.
        image: column of the image's path.
        label: column of the class's name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no image in a folder of a class.
    """
    rows = [
        Row(file, None, {image: file.name, label: each.name}) for each in _folders_in(folder) for file in _images(each)
    ]
    if not rows:
        raise ValueError(f"{folder} must hold a folder of images for each class; found no image in any folder")
    return rows


def unlabeled_rows(folder: Path, image: str) -> list[Row]:
    """Return a row for every image in a folder, at any depth.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no image in it.
    """
    _folders_in(folder)
    rows = [Row(file, None, {image: file.name}) for file in _images(folder)]
    if not rows:
        raise ValueError(f"{folder} must hold images; found none")
    return rows


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"a task's images must be in a folder; found none at {str(folder)!r}")
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES and not _is_hidden(file))


def _is_hidden(file: Path) -> bool:
    return file.name.startswith(".")  # what macOS leaves beside an image
