"""Labelled data that experts have not seen: validation data to learn from, halves of the test data to measure on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wemoe.data.batches import Chosen, Labelled, Task
from wemoe.suites import Suite


def held_out(suite: Suite) -> Suite:
    """Return a suite that trains on each task's validation data; halves of its test data validate and test.

    Experts that were fine-tuned until they know their training data by heart lose nothing on them any more, and routers
    learn nothing from such losses. The halves are drawn at random, the same ones each time; nothing is copied.

    Raises:
        ValueError: a task has no labelled validation data, or fewer than two labelled test samples.
    """
    return replace(suite, tasks={name: _moved_on(name, task) for name, task in suite.tasks.items()})


def _moved_on(name: str, task: Task) -> Task:
    if task.validation is None:
        raise ValueError(f"task {name!r} must have labelled validation data to train on; found none")
    found = task.test
    if found is None or len(found.samples) < 2:
        count = 0 if found is None else len(found.samples)
        raise ValueError(f"task {name!r} must have two test samples or more, to be halved; found {count}")
    order = torch.randperm(len(found.samples), generator=torch.Generator().manual_seed(0))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    return replace(task, train=task.validation, validation=_chosen(found, first), test=_chosen(found, second))


def _chosen(labelled: Labelled, rows: Tensor) -> Labelled:
    return Labelled(Chosen(labelled.samples, rows.tolist()), labelled.labels[rows])
