"""Batches that hold samples of several tasks at once, as a service gets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wemoe.data.batches import Samples


@dataclass(frozen=True)
class MixedBatch:
    """Samples of several tasks, those of one task side by side.

    Attributes:
        inputs: of the model, each [B, ...].
        rows: by task, in the order of `inputs`, which of the task's samples they are; B in all.
    """

    inputs: dict[str, Tensor]
    rows: dict[str, Tensor]

    def split(self, found: Tensor) -> dict[str, Tensor]:
        """Part what was found for the samples [B, ...] by task."""
        parts = torch.split(found, [len(rows) for rows in self.rows.values()])
        return dict(zip(self.rows, parts, strict=True))


def mixed_batches(samples: Mapping[str, Samples], size: int, seed: int) -> Iterator[MixedBatch]:
    """Yield every sample of every task once, in an order that the seed decides.

    Texts are filled up to the longest of the batch, each as its own task's are.

    Args:
        samples: by task.
        size: of a batch.
        seed: of the order.

    Raises:
        ValueError: the tasks' samples are not of the same kind and shape.
    """
    everything = [(task, row) for task, each in samples.items() for row in range(len(each))]
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        chosen = [everything[place] for place in sorted(order[start : start + size])]
        rows = {task: [row for other, row in chosen if other == task] for task in dict(chosen)}
        inputs = _joined({task: samples[task].inputs(each) for task, each in rows.items()}, samples)
        yield MixedBatch(inputs, {task: torch.tensor(each) for task, each in rows.items()})


def _joined(parts: Mapping[str, dict[str, Tensor]], samples: Mapping[str, Samples]) -> dict[str, Tensor]:
    longest = max(tensor.shape[1] for inputs in parts.values() for tensor in inputs.values())
    alike = {task: samples[task].padded(inputs, longest) for task, inputs in parts.items()}
    shapes = {task: {name: tuple(each.shape[1:]) for name, each in inputs.items()} for task, inputs in alike.items()}
    first, *others = shapes.values()
    if any(each != first for each in others):
        raise ValueError(f"tasks in one batch must have the same inputs, of the same shapes; found {shapes}")
    return {name: torch.cat([inputs[name] for inputs in alike.values()]) for name in first}
