"""Accuracy per task: top-1 on each task's own labelled batches, read through that task's own head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from wemoe.evaluation.predicted import read_logits_of
from wemoe.modes import evaluating

Batch = TypeVar("Batch")


def evaluate(
    model: nn.Module,
    batches: Mapping[str, Iterable[tuple[Batch, Tensor]]],
    predict: Callable[[nn.Module, Batch, str], Tensor],
) -> dict[str, float]:
    """Score a model on every task, in evaluation mode and without gradients.

    Args:
        model: the model; its mode is restored afterwards.
        batches: by task, pairs of a batch and its labels [B].
        predict: `predict(model, batch, task)` gives logits [B, C].

    Returns:
        The share of right answers in [0, 1] by task.

    Raises:
        ValueError: a task has no batch, or logits and labels disagree in number.
    """
    with evaluating(model), torch.inference_mode():
        return {task: _accuracy(model, pairs, predict, task) for task, pairs in batches.items()}


def _accuracy(
    model: nn.Module,
    pairs: Iterable[tuple[Batch, Tensor]],
    predict: Callable[[nn.Module, Batch, str], Tensor],
    task: str,
) -> float:
    right = total = 0
    for _, logits, labels in read_logits_of(model, pairs, predict, task):
        right += int((logits.argmax(dim=-1) == labels.to(logits.device)).sum())
        total += labels.numel()
    return right / total
