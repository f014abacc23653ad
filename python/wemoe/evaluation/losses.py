"""Mean loss per task on its own labelled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from wemoe.modes import evaluating

Batch = TypeVar("Batch")


def mean_losses(
    model: nn.Module,
    batches: Mapping[str, Iterable[tuple[Batch, Tensor]]],
    loss: Callable[[nn.Module, tuple[Batch, Tensor], str], Tensor],
) -> dict[str, float]:
    """Average a loss over the samples of every task, in evaluation mode and without gradients.

    Args:
        model: the model; its mode is restored afterwards.
        batches: by task, pairs of a batch and its labels [B].
        loss: `loss(model, (batch, labels), task)` gives the mean over the batch, a scalar.

    Returns:
        The mean over all samples by task, whatever batches they are in.

    Raises:
        ValueError: a task has no labelled sample.
    """
    with evaluating(model), torch.inference_mode():
        return {task: _mean(model, pairs, loss, task) for task, pairs in batches.items()}


def _mean(
    model: nn.Module,
    pairs: Iterable[tuple[Batch, Tensor]],
    loss: Callable[[nn.Module, tuple[Batch, Tensor], str], Tensor],
    task: str,
) -> float:
    total, count = 0.0, 0
    for batch, labels in pairs:
        total += labels.numel() * float(loss(model, (batch, labels), task))
        count += labels.numel()
    if count == 0:
        raise ValueError(f"batches[{task!r}] must hold at least one labelled sample; found none")
    return total / count
