"""Images as a model reads them: from their files, by the model's own processor, or from memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from wemoe.data.batches import Samples
from wemoe.data.tables import Row

Colours = NDArray[np.uint8]  # [H, W, 3]


class ImageSamples(Samples):
    """Images of which each can be had as colours, and that are prepared for a model when a batch is made."""

    @abstractmethod
    def colours(self, row: int) -> Colours:
        """Return one image as it is seen [H, W, 3]."""

    @abstractmethod
    def prepare(self, images: Sequence[Colours]) -> Tensor:
        """Return images as the model reads them [B, 3, H, W]."""

    def lengths(self) -> list[int]:
        """Return the same for every image: they all are of one size for the model."""
        return [1] * len(self)

    def inputs(self, rows: list[int]) -> dict[str, Tensor]:
        """Return some of the images, prepared [B, 3, H, W]."""
        return {"pixel_values": self.prepare([self.colours(row) for row in rows])}


class ProcessedImages(ImageSamples):
    """Images of any size, which a model's own processor prepares.

    Attributes:
        processor: the model's own, which makes them all of one size.
    """

    processor: BaseImageProcessor

    def prepare(self, images: Sequence[Colours]) -> Tensor:
        """Run the processor on some images.

        Raises:
            ValueError: the processor leaves images at different sizes.
        """
        prepared = [self._prepared(image) for image in images]
        shapes = {tuple(image.shape) for image in prepared}
        if len(shapes) != 1:
            raise ValueError(
                f"{type(self.processor).__name__} must make all images of a batch one size; found {sorted(shapes)}"
            )
        return torch.stack(prepared)

    def _prepared(self, image: Colours) -> Tensor:
        found: Tensor = self.processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        return found


@dataclass(frozen=True)
class Images(ProcessedImages):
    """Image files; none is kept in memory.

    Attributes:
        files: of each image.
        processor: the model's own, which makes them all of one size.
    """

    files: Sequence[Path]
    processor: BaseImageProcessor

    def __len__(self) -> int:
        return len(self.files)

    def colours(self, row: int) -> Colours:
        """Read one image [H, W, 3].

        Raises:
            ValueError: the file is no image.
        """
        file = self.files[row]
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{str(file)!r} must be an image; found: {error}") from error


@dataclass(frozen=True)
class Pixels(ImageSamples):
    """Images in memory, all of the size that the model reads; a model sees them as numbers from -1 to 1.

    Attributes:
        images: [S, H, W, 3], or [S, H, W] where they are grey.
    """

    images: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def colours(self, row: int) -> Colours:
        """Return one image [H, W, 3]; a grey one has the same in all channels."""
        image: Colours = self.images[row]
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)

    def prepare(self, images: Sequence[Colours]) -> Tensor:
        """Scale images to -1 .. 1, channels first."""
        return torch.from_numpy(np.stack(images)).movedim(-1, 1).float().div(127.5).sub(1.0).contiguous()


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
