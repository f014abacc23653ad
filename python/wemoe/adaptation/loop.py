"""The loop of test-time adaptation: one unlabeled batch per task and step, gradients to the routers only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from wemoe.adaptation.objectives import OBJECTIVES
from wemoe.adaptation.state import SCHEDULES, AdaptationState, Answers, Settings
from wemoe.adaptation.streams import Stream, open_streams
from wemoe.files import check_writable
from wemoe.modes import evaluating
from wemoe.predictions import Batch, Predict, read_logits, to_device
from wemoe.training_steps import check_numbers, take_steps

Expert = nn.Module | Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation did.

    Attributes:
        history: one record per step: `step` (from 1), `loss` (summed over tasks), `learning_rate`, and by task
            `losses`, `entropy` (mean over the batch, nats) and `diversity` (entropy of the mean class distribution
            over the latest batches, nats).
        collapsed: tasks whose predictions gathered in few classes, in the order of the streams.
    """

    history: list[dict[str, Any]]
    collapsed: tuple[str, ...]


class AdaptOptions(TypedDict, total=False):
    """The options of `adapt`, for functions that hand them on."""

    objective: Literal["match", "entropy", "infomax"]
    steps: int
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    seed: int
    progress: bool
    log: str | os.PathLike[str] | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int


def adapt(
    model: nn.Module,
    streams: Mapping[str, Iterable[Batch]],
    predict: Predict[Batch],
    *,
    objective: Literal["match", "entropy", "infomax"] = "match",
    experts: Mapping[str, Expert[Batch]] | None = None,
    steps: int = 1000,
    learning_rate: float = 1e-4,
    schedule: Literal["constant", "cosine"] = "constant",
    seed: int = 0,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
) -> Adaptation:
    """Train a model's routers on unlabeled data, in place (arXiv 2402.00433, algorithm 1).

    At each step every task gives one batch; its loss is back-propagated at once, so that memory does not grow with
    the number of tasks, and the gradients add up to that of the sum of all tasks' losses. Adam then moves whatever
    parameters require gradients. The model runs in evaluation mode (no dropout); its mode is restored.

    Args:
        model: a routed model; only its routers move.
        streams: by task, unlabeled batches (16 samples each in the published setting): iterables that can be iterated
            again, or are long enough. Tensors in a batch are moved to the model's device.
        predict: `predict(model, batch, task)` gives logits [..., C], or (logits [..., C], valid bool [...]) where
            some positions do not count. It applies the task's own frozen head.
        objective: `match` (Kullback-Leibler divergence from the task's own expert, the recommended one), `entropy`
            (the published one, which may collapse onto one class), `infomax` (entropy less that of the batch's mean).
        experts: by task, the fine-tuned model, or a function from a batch to its logits (precomputed ones, say);
            needed by `match`, where `predict(expert, batch, task)` reads a model. Where inputs are unlike the
            experts' training data, `hold_class_shares` keeps precomputed logits from gathering in few classes, and
            `anchor_to_start` mixes in those of the merge that the model starts as.
        steps: number of optimiser steps in all.
        learning_rate: of Adam (betas 0.9 and 0.999, no decay).
        schedule: `constant`, or `cosine` from `learning_rate` to 0 over all steps.
        seed: of torch's global generator while adapting; its state is restored afterwards. On a CPU, one seed gives
            bit-equal runs.
        progress: whether to show a progress bar.
        log: file that gains one JSON line per step.
        checkpoint: file to resume from if it exists, and to save to: optimiser, step, random state and history.
            The streams are drawn again up to the step reached, so they must be seeded alike.
        checkpoint_every: steps between two saves; an interrupt saves as well.

    Returns:
        The history, and the tasks that collapsed.

    Raises:
        OSError: the checkpoint's folder cannot be written; checked before any work.
        TypeError: `streams` is no mapping, or `predict` gives something else than logits.
        ValueError: an unknown objective or schedule, a missing expert, an empty stream, nothing to train, a number
            out of range, a loss that is not finite, or a checkpoint of another run.
    """
    settings = Settings(tuple(streams), objective, steps, learning_rate, schedule, seed)
    experts = experts or {}
    _check(settings, experts, checkpoint_every)
    if checkpoint is not None:
        check_writable(Path(checkpoint).absolute().parent)
    modules = [expert for expert in experts.values() if isinstance(expert, nn.Module)]
    with torch.random.fork_rng(), evaluating(model, *modules):
        torch.manual_seed(seed)
        state = AdaptationState(model, settings)
        opened = open_streams(streams, skip=state.load(checkpoint))
        take_steps(
            state,
            partial(_accumulate_gradients, model, opened, predict, experts, objective),
            title=f"adapt ({objective})",
            progress=progress,
            log=log,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
    collapsed = tuple(task for task, watch in state.watches.items() if watch.collapsed)
    return Adaptation(state.history, collapsed)


def _check(settings: Settings, experts: Mapping[str, object], checkpoint_every: int) -> None:
    if settings.objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {sorted(OBJECTIVES)}; found {settings.objective!r}")
    if settings.schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}; found {settings.schedule!r}")
    check_numbers(settings, checkpoint_every)
    missing = [task for task in settings.tasks if task not in experts]
    if OBJECTIVES[settings.objective].needs_experts and missing:
        raise ValueError(
            f"objective {settings.objective!r} needs the expert of every task; experts lacks {missing}. "
            "Without experts there are the objectives 'entropy' and 'infomax'."
        )


def _accumulate_gradients(
    model: nn.Module,
    streams: Mapping[str, Stream[Batch]],
    predict: Predict[Batch],
    experts: Mapping[str, Expert[Batch]],
    objective_name: str,
) -> Answers:
    """Back-propagate one batch of every task."""
    objective = OBJECTIVES[objective_name]
    device = next(model.parameters()).device
    losses, all_logits = {}, {}
    for task, stream in streams.items():
        batch = to_device(stream.draw(), device)
        logits, valid = read_logits(predict(model, batch, task), task)
        target = None
        if objective.needs_experts:
            target = _expert_probabilities(experts[task], batch, predict, task, valid, logits)
        loss = objective.loss(logits, target)
        if not loss.isfinite():
            raise ValueError(
                f"the loss of task {task!r} must be finite; found {loss.item()} at its batch {stream.drawn}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        losses[task] = loss.item()
        all_logits[task] = logits.detach()
    return Answers(losses, all_logits)


def _expert_probabilities(
    expert: Expert[Batch],
    batch: Batch,
    predict: Predict[Batch],
    task: str,
    valid: Tensor | None,
    logits: Tensor,
) -> Tensor:
    with torch.no_grad():
        prediction = predict(expert, batch, task) if isinstance(expert, nn.Module) else expert(batch)
        whole = prediction[0] if isinstance(prediction, tuple) else prediction
        # the routed model's own mask decides which positions count
        rows, _ = read_logits(whole if valid is None else (whole, valid), task)
    if rows.shape != logits.shape:
        raise ValueError(
            f"the expert of task {task!r} must give logits like the model's, {tuple(logits.shape)}; "
            f"found {tuple(rows.shape)}"
        )
    return rows.to(logits.device).softmax(dim=-1)
