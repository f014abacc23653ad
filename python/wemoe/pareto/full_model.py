"""Multi-task fine-tuning of the whole base: one model, one point of a front, which preference routers are judged by."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from wemoe.adaptation.streams import Stream, open_streams
from wemoe.files import check_writable
from wemoe.pareto.mgda import MGDA
from wemoe.pareto.rays import equal_weights
from wemoe.pareto.scalarizations import SCALARIZATIONS, Scalarization
from wemoe.pareto.state import Direction, ParetoState, Settings
from wemoe.pareto.steps import (
    Loss,
    TaskLoss,
    Training,
    check_gradient,
    check_settings,
    check_tasks,
    made,
    name_of,
    task_loss,
    training_of,
    weigh,
)
from wemoe.predictions import Batch
from wemoe.preferences import check_preference
from wemoe.training_steps import take_steps

Model = TypeVar("Model", bound=nn.Module)

FULL_MODEL: Mapping[str, Callable[[], Scalarization]] = {**SCALARIZATIONS, "mgda": MGDA}


@dataclass(frozen=True)
class FullModelSettings(Settings):
    """What two runs must share; the preference is the same at each step, as if its concentration were infinite."""

    ray: tuple[float, ...]


class FullModelState(ParetoState):
    """The state of a training run of all of a model's parameters."""

    saved_by = "wemoe.pareto.fine_tune_together"


def fine_tune_together(
    base_model: Model,
    loaders: Mapping[str, Iterable[Batch]],
    losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]],
    *,
    scalarization: Literal["ls", "epo", "mgda"] | Scalarization = "ls",
    ray: Sequence[float] | Tensor | None = None,
    steps: int = 8000,
    learning_rate: float = 1e-5,
    final_rate: float = 0.1,
    seed: int = 0,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
) -> tuple[Model, Training]:
    """Fine-tune all of a model's weights on all tasks at once, the baselines of arXiv 2406.09770.

    What a preference-routed model does with some hundred numbers for all preferences, this does with every weight of
    the base for one. At each step every task gives one batch; the scalarization reads the products of the losses'
    gradients, and the weights that it chooses make the gradient of the step, which is Adam's. All T gradients are in
    memory at once. The model runs in training mode, with dropout.

    Args:
        base_model: where training starts; untouched.
        loaders: by task, labelled batches, as in `train`.
        losses: as in `train`.
        scalarization: `ls` (losses weighted by the ray), `epo` (exact Pareto optimal for the ray), `mgda` (the step
            that helps all losses most evenly, which reads no ray and needs TorchJD), or one of your own.
        ray: [T], how much each task counts; equal numbers by default, as published.
        steps: number of optimiser steps in all.
        learning_rate: of Adam at the first step (betas 0.9 and 0.999, no decay).
        final_rate: share of it that a cosine goes down to.
        seed: of torch's global generator while training (dropout); its state is restored afterwards.
        progress: whether to show a progress bar.
        log: file that gains one JSON line per step.
        checkpoint: file to resume from if it exists, and to save to, as in `train`; three times the model's size.
        checkpoint_every: steps between two saves; an interrupt saves as well.

    Returns:
        The model, in the base's mode, and what the run did.

    Raises:
        ImportError: `mgda` without TorchJD.
        OSError: the checkpoint's folder cannot be written; checked before any work.
        TypeError: `loaders` is no mapping, or a loss is no scalar tensor.
        ValueError: losses or the ray are not of the loaders' tasks, an unknown scalarization, a number out of range, an
            empty loader, a loss, a gradient or a weight that is not finite, or a checkpoint of another run.
    """
    if not isinstance(loaders, Mapping):
        raise TypeError(f"loaders must map task names; found {type(loaders).__name__}")
    tasks = tuple(loaders)
    wanted = equal_weights(len(tasks)) if ray is None else check_preference(ray, tasks)
    if wanted.dim() != 1:
        raise ValueError(f"ray must be one preference [T]; found shape {tuple(wanted.shape)}")
    settings = FullModelSettings(
        tasks, name_of(scalarization), steps, learning_rate, final_rate, math.inf, seed, tuple(wanted.tolist())
    )
    check_settings(settings, checkpoint_every)
    if isinstance(losses, Mapping):
        check_tasks("losses", losses, tasks, "the loaders'")
    if checkpoint is not None:
        check_writable(Path(checkpoint).absolute().parent)
    chosen = made(scalarization, FULL_MODEL)
    model = copy.deepcopy(base_model).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        state = FullModelState(model, settings)
        opened = open_streams(loaders, state.load(checkpoint), "loaders")
        take_steps(
            state,
            partial(_direction, model, state.parameters, wanted, opened, losses, chosen),
            title=f"fine-tune together ({settings.scalarization})",
            progress=progress,
            log=log,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
    return model.train(base_model.training), training_of(state)


def _direction(
    model: nn.Module,
    parameters: list[nn.Parameter],
    ray: Tensor,
    streams: Mapping[str, Stream[Batch]],
    losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]],
    scalarization: Scalarization,
) -> Direction:
    """Compute a step's direction from one batch of every task."""
    values, rows = [], []
    for task, stream in streams.items():
        loss = task_loss(model, stream, losses, task)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))  # [P]
        check_gradient(rows[-1], task, stream.drawn)
        values.append(loss.item())
    found = torch.tensor(values, dtype=torch.float64)
    weights, fallbacks = weigh(scalarization, found, _gram(rows), ray)
    gradient = torch.zeros_like(rows[0])
    for weight, row in zip(weights.tolist(), rows, strict=True):
        gradient.add_(row, alpha=weight)
    return Direction(ray, found, weights, fallbacks, gradient)


def _gram(rows: Sequence[Tensor]) -> Tensor:
    """Return the inner products [T, T] of gradients [P], in fp64 on the CPU."""
    return torch.tensor([[float(a @ b) for b in rows] for a in rows], dtype=torch.float64)
