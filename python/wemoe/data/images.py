"""Images as a model's own processor prepares them, read from their files when a batch is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from wemoe.data.batches import Samples
from wemoe.data.tables import Row


@dataclass(frozen=True)
class Images(Samples):
    """Image files; none is kept in memory.

    Attributes:
        files: of each image.
        processor: the model's own, which makes them all of one size.
    """

    files: Sequence[Path]
    processor: BaseImageProcessor

    def __len__(self) -> int:
        return len(self.files)

    def lengths(self) -> list[int]:
        """Return the same for every image: they all are of one size for the model."""
        return [1] * len(self.files)

    def inputs(self, rows: list[int]) -> dict[str, Tensor]:
        """Read some of the images [B, 3, H, W].

        Raises:
            ValueError: a file is no image, or the processor leaves images at different sizes.
        """
        prepared = [self._prepared(self.files[row]) for row in rows]
        shapes = {tuple(image.shape) for image in prepared}
        if len(shapes) != 1:
            raise ValueError(
                f"{type(self.processor).__name__} must make all images of a batch one size; found {sorted(shapes)}"
            )
        return {"pixel_values": torch.stack(prepared)}

    def _prepared(self, file: Path) -> Tensor:
        try:
            with Image.open(file) as image:
                colours = image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{str(file)!r} must be an image; found: {error}") from error
        prepared: Tensor = self.processor(images=colours, return_tensors="pt")["pixel_values"][0]
        return prepared


def image_files(rows: Sequence[Row], column: str) -> list[Path]:
    """Return the image file of every row, whose path is relative to the row's own file.

    Raises:
        ValueError: there is no such column, it holds no text, or there is no such file.
    """
    files = []
    for row in rows:
        file = row.file.parent / row.text(column)
        if not file.is_file():
            raise ValueError(f"{row.place(column)} must be the path of an image; found no file at {str(file)!r}")
        files.append(file)
    return files
