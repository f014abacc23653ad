"""The experts' answers to the unlabeled samples: `match` asks for them again and again, so they are computed once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wemoe.data.batches import Batch, Samples, read_all
from wemoe.modes import evaluating
from wemoe.suites import Suite


class ExpertAnswers:
    """Logits of each task's expert on the task's unlabeled samples, computed when they are first needed.

    Args:
        suite: models and tasks.

    Attributes:
        seconds: what computing them has taken; 0 before.
    """

    def __init__(self, suite: Suite) -> None:
        self.seconds = 0.0
        self._suite = suite
        self._logits: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Compute the answers, unless they are there."""
        if self._logits:
            return
        start = time.perf_counter()
        for name, task in self._suite.tasks.items():
            if task.unlabeled is not None:
                self._logits[name] = self._compute(name, task.unlabeled)
        self.seconds = time.perf_counter() - start

    @property
    def by_task(self) -> dict[str, Callable[[Batch], Tensor]]:
        """By task, a function from a batch of its unlabeled samples to the expert's logits [B, C]."""
        self.prepare()
        return {task: _reader(logits) for task, logits in self._logits.items()}

    def _compute(self, task: str, samples: Samples) -> Tensor:
        suite, expert = self._suite, self._suite.experts[task]
        with evaluating(expert), torch.no_grad():
            read = partial(suite.predict, expert, task=task)
            return read_all(samples, suite.tasks[task].batch_size, read)


def _reader(logits: Tensor) -> Callable[[Batch], Tensor]:
    return lambda batch: logits[batch.rows]
