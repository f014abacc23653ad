"""The experts' answers to the unlabeled samples: `match` asks for them again and again, so they are computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from wemoe.adaptation import anchor_to_start, hold_class_shares
from wemoe.data.batches import Batch, read_all
from wemoe.merging import task_arithmetic
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
        self._logits = self._of(self._suite.experts)
        self.seconds = time.perf_counter() - start

    def by_task(
        self, *, class_shares: float | None = None, anchor: float | None = None, init_lambda: float = 0.3
    ) -> dict[str, Callable[[Batch], Tensor]]:
        """Return, by task, a function from a batch of its unlabeled samples to the expert's logits [B, C].

        Args:
            class_shares: the tolerance within which `hold_class_shares` keeps them to the classes of the training data;
                None to leave them as they are.
            anchor: the share that the start of the adaptation has in them, by `anchor_to_start` and before
                `class_shares`; None to leave it out.
            init_lambda: the start is task arithmetic with this coefficient.
        """
        self.prepare()
        answers = self._logits
        if anchor is not None:
            start = self._start(init_lambda)
            answers = {task: anchor_to_start(logits, start[task], anchor) for task, logits in answers.items()}
        if class_shares is not None:
            answers = {
                task: hold_class_shares(logits, self._shares(task), class_shares) for task, logits in answers.items()
            }
        return {task: _reader(logits) for task, logits in answers.items()}

    def _start(self, init_lambda: float) -> dict[str, Tensor]:
        suite = self._suite
        return self._of(dict.fromkeys(suite.tasks, task_arithmetic(suite.base, suite.experts, scaling=init_lambda)))

    def _shares(self, name: str) -> Tensor:
        """How many training samples each class has [C], and one more, since none is impossible."""
        task = self._suite.tasks[name]
        assert task.train is not None  # checked before any work, with the rows or the configuration
        return torch.bincount(task.train.labels, minlength=task.num_labels) + 1

    def _of(self, models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The logits [S, C] of each task's model on the task's unlabeled samples."""
        suite, logits = self._suite, {}
        for name, task in suite.tasks.items():
            if task.unlabeled is not None:
                read = partial(suite.predict, models[name], task=name)
                with evaluating(models[name]), torch.no_grad():
                    logits[name] = read_all(task.unlabeled, task.batch_size, read)
        return logits


def _reader(logits: Tensor) -> Callable[[Batch], Tensor]:
    return lambda batch: logits[batch.rows]
