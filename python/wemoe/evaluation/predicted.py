"""The class that a model predicts for every sample, and what follows from it: accuracy, and how often each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from wemoe.data.batches import Batch
from wemoe.modes import evaluating

AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True)
class Predicted:
    """What a model predicts for the samples of a task, in their order.

    Attributes:
        classes: of each sample, the one with the largest logit [S].
        labels: the right ones [S].
        num_classes: C.
    """

    classes: Tensor
    labels: Tensor
    num_classes: int

    @property
    def accuracy(self) -> float:
        """Share of the samples whose predicted class is the right one."""
        return int((self.classes == self.labels).sum()) / len(self.labels)

    @property
    def counts(self) -> list[int]:
        """How many samples are predicted to be of each class [C]."""
        counts: list[int] = torch.bincount(self.classes, minlength=self.num_classes).tolist()
        return counts


def predict_all(
    model: nn.Module,
    batches: Mapping[str, Iterable[tuple[Batch, Tensor]]],
    predict: Callable[[nn.Module, Batch, str], Tensor],
) -> dict[str, Predicted]:
    """Run a model once on every sample of every task, in evaluation mode and without gradients.

    Args:
        model: the model; its mode is restored afterwards.
        batches: by task, pairs of a batch and its labels [B].
        predict: `predict(model, batch, task)` gives logits [B, C].

    Returns:
        By task, what the model predicts, on the CPU, ordered by the rows of the batches.

    Raises:
        ValueError: a task has no batch, or logits and labels disagree in number.
    """
    with evaluating(model), torch.inference_mode():
        return {task: _gathered(read_logits_of(model, pairs, predict, task)) for task, pairs in batches.items()}


def read_logits_of(
    model: nn.Module,
    pairs: Iterable[tuple[AnyBatch, Tensor]],
    predict: Callable[[nn.Module, AnyBatch, str], Tensor],
    task: str,
) -> Iterator[tuple[AnyBatch, Tensor, Tensor]]:
    """Yield every batch of a task with its logits [B, C] and its labels [B].

    Raises:
        ValueError: there is no sample, or logits and labels disagree in number.
    """
    total = 0
    for batch, labels in pairs:
        logits = predict(model, batch, task)
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"predict must give one row of logits per label; task {task!r} gave {tuple(logits.shape[:-1])} "
                f"answers for {tuple(labels.shape)} labels"
            )
        total += labels.numel()
        yield batch, logits, labels
    if total == 0:
        raise ValueError(f"batches[{task!r}] must hold at least one labelled sample; found none")


def _gathered(read: Iterable[tuple[Batch, Tensor, Tensor]]) -> Predicted:
    found = [(batch.rows, logits, labels) for batch, logits, labels in read]
    rows, logits, labels = (torch.cat([part.cpu() for part in parts]) for parts in zip(*found, strict=True))
    order = rows.argsort()
    return Predicted(logits.argmax(dim=-1)[order], labels[order], logits.shape[-1])
