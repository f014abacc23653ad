"""Predicting classes in batches of all tasks: the model runs once for all, and each task reads its own samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wemoe.data.batches import Batch
from wemoe.data.mixed import MixedBatch, mixed_batches
from wemoe.evaluation.predicted import Predicted
from wemoe.heads import TaskHead, read_pooled
from wemoe.modes import evaluating
from wemoe.pooling import POOLINGS
from wemoe.predictions import to_device
from wemoe.suites import Suite
from wemoe.task_config import Part, Pooling


def predict_mixed(suite: Suite, model: nn.Module, part: Part = "test", *, seed: int = 0) -> dict[str, Predicted]:
    """Run a model once on every sample of every task, in batches of all tasks.

    Args:
        suite: the tasks and their heads.
        model: of the base's class; its mode is restored afterwards.
        part: with labels.
        seed: of the order in which samples are drawn.

    Returns:
        By task, what the model predicts, in the samples' order.

    Raises:
        ValueError: a task's samples have other inputs than another's.
    """
    labelled = {name: getattr(task, part) for name, task in suite.tasks.items()}
    size = min(task.batch_size for task in suite.tasks.values())
    rows: dict[str, list[Tensor]] = {name: [] for name in suite.tasks}
    logits: dict[str, list[Tensor]] = {name: [] for name in suite.tasks}
    with evaluating(model), torch.inference_mode():
        for batch in mixed_batches({name: each.samples for name, each in labelled.items()}, size, seed):
            for name, found in read_mixed(suite, model, batch).items():
                rows[name].append(batch.rows[name])
                logits[name].append(found.cpu())
    return {name: _ordered(torch.cat(rows[name]), torch.cat(logits[name]), labelled[name].labels) for name in rows}


def read_mixed(suite: Suite, model: nn.Module, batch: MixedBatch) -> dict[str, Tensor]:
    """Read a model for each sample by the head of its task.

    Heads that read pooled features share one run of the model for each way of pooling. A `TaskHead` runs the model
    itself: on the whole batch too, since that is what is asked about, and only the rows of its task are kept.

    Returns:
        By task, logits of its samples [samples, C].
    """
    inputs = to_device(Batch(batch.inputs, torch.cat(list(batch.rows.values()))), next(model.parameters()).device)
    features: dict[Pooling, dict[str, Tensor]] = {}
    logits = {}
    for task in batch.rows:
        head, pooling = suite.heads[task], suite.tasks[task].pooling
        if isinstance(head, TaskHead):
            logits[task] = batch.split(suite.predict(model, inputs, task))[task]
            continue
        if pooling not in features:
            features[pooling] = batch.split(POOLINGS[pooling](model, inputs))
        logits[task] = read_pooled(head, features[pooling][task])
    return logits


def _ordered(rows: Tensor, logits: Tensor, labels: Tensor) -> Predicted:
    return Predicted(logits.argmax(dim=-1)[rows.argsort()], labels, logits.shape[-1])
