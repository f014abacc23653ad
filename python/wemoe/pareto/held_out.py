"""Labelled data that experts have not seen: half of the validation data to learn from, half to measure losses on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wemoe.data.batches import Chosen, Labelled, Task
from wemoe.suites import Suite


def held_out(suite: Suite) -> Suite:
    """Return a suite whose training and validation data are the two halves of each task's validation data.

    Experts that were fine-tuned until they know their training data by heart lose nothing on them any more, and routers
    learn nothing from such losses. The halves are drawn at random, the same ones each time; nothing is copied.

    Raises:
        ValueError: a task has fewer than two labelled validation samples.
    """
    return replace(suite, tasks={name: _halved(name, task) for name, task in suite.tasks.items()})


def _halved(name: str, task: Task) -> Task:
    found = task.validation
    if found is None or len(found.samples) < 2:
        count = 0 if found is None else len(found.samples)
        raise ValueError(f"task {name!r} must have two validation samples or more, to be halved; found {count}")
    order = torch.randperm(len(found.samples), generator=torch.Generator().manual_seed(0))
    middle = len(order) // 2
    return replace(task, train=_chosen(found, order[:middle]), validation=_chosen(found, order[middle:]))


def _chosen(labelled: Labelled, rows: Tensor) -> Labelled:
    rows = rows.sort().values
    return Labelled(Chosen(labelled.samples, rows.tolist()), labelled.labels[rows])
