"""A suite whose images are corrupted where a model adapts and where it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch import Tensor

from wemoe.data.batches import Labelled, Samples, Task
from wemoe.data.images import Colours, ImageSamples, Pixels
from wemoe.off_distribution.corrupting import Corruption
from wemoe.suites import Suite


@dataclass(frozen=True)
class CorruptedImages(ImageSamples):
    """Other images, each corrupted when it is read.

    Attributes:
        samples: the images as they are.
        corruption: what is done to each of them.
    """

    samples: ImageSamples
    corruption: Corruption

    def __len__(self) -> int:
        return len(self.samples)

    def colours(self, row: int) -> Colours:
        """Read and corrupt one image [H, W, 3], in the size that it has before it is prepared."""
        return self.corruption(self.samples.colours(row), row)

    def prepare(self, images: Sequence[Colours]) -> Tensor:
        """Return corrupted images as the model reads them [B, 3, H, W]."""
        return self.samples.prepare(images)


def corrupted_suite(suite: Suite, corruption: str, severity: int = 2, seed: int = 0) -> Suite:
    """Return a suite whose unlabeled and test images are corrupted; training and validation images are as they were.

    Images in memory are corrupted here, once; those in files when they are read. Models and heads are shared.

    Args:
        suite: of images.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of what is drawn for each image.

    Raises:
        ImportError: the library of corruptions is not installed.
        ValueError: a task does not consist of images, or an argument is not what it must be.
    """
    check_images(suite)
    how = Corruption(corruption, severity, seed)
    return replace(suite, tasks={name: _corrupted(task, how) for name, task in suite.tasks.items()})


def check_images(suite: Suite) -> None:
    """Check that what would be corrupted of a suite are images.

    Raises:
        ValueError: it is something else.
    """
    for name, task in suite.tasks.items():
        parts = {"unlabeled": task.unlabeled, "test": None if task.test is None else task.test.samples}
        for part, samples in parts.items():
            if samples is not None and not isinstance(samples, ImageSamples):
                raise ValueError(
                    f"corruptions are of images; the {part} part of task {name!r} must be of them, found "
                    f"{type(samples).__name__}"
                )


def _corrupted(task: Task, how: Corruption) -> Task:
    test = None if task.test is None else Labelled(_images(task.test.samples, how), task.test.labels)
    if test is not None and task.test is not None and task.unlabeled is task.test.samples:
        return replace(task, unlabeled=test.samples, test=test)  # the published setting: adapted on test images
    return replace(task, unlabeled=None if task.unlabeled is None else _images(task.unlabeled, how), test=test)


def _images(samples: Samples, how: Corruption) -> ImageSamples:
    images = cast("ImageSamples", samples)  # which `check_images` has checked
    if not isinstance(images, Pixels):
        return CorruptedImages(images, how)
    return replace(images, images=np.stack([how(images.colours(row), row) for row in range(len(images))]))
