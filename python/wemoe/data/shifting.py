"""Images moved by a few pixels, so that a model that is trained on few of them does not learn them by heart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wemoe.data.batches import Batch


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by its own whole number of pixels, up and down, left and right; edges are repeated.

    Args:
        images: [B, C, H, W].
        most: pixels in each direction; 0 leaves the images as they are and draws nothing.
        generator: of the numbers.
    """
    if most == 0:
        return images
    count, channels, height, width = images.shape
    wider = F.pad(images, (most,) * 4, mode="replicate")
    down, right = torch.randint(2 * most + 1, (2, count, 1), generator=generator)
    rows = (down + torch.arange(height))[:, None, :, None]  # [B, 1, H, 1]
    columns = (right + torch.arange(width))[:, None, None, :]  # [B, 1, 1, W]
    return wider[torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]


def shifted_images(batch: Batch, most: int, generator: torch.Generator) -> Batch:
    """Return a batch whose images are moved, as `shifted` does it."""
    if most == 0:
        return batch
    moved = shifted(batch.inputs["pixel_values"], most, generator)
    return Batch(batch.inputs | {"pixel_values": moved}, batch.rows)
