"""Training preference routers: a random preference, one labelled batch of each task, one step (arXiv 2406.09770)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from wemoe.adaptation.streams import Stream, open_streams
from wemoe.files import check_writable
from wemoe.modes import evaluating
from wemoe.pareto.rays import sample_ray
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
from wemoe.preference_layers import merging_once
from wemoe.preferences import restoring_preference, set_preference, steered_backbone
from wemoe.training_steps import take_steps


def train(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Batch]],
    losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]],
    *,
    scalarization: Literal["ls", "epo"] | Scalarization = "ls",
    steps: int = 4000,
    learning_rate: float = 1e-2,
    final_rate: float = 0.1,
    concentration: float = 1.0,
    seed: int = 0,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
) -> Training:
    """Train a model's preference routers on labelled data, in place (arXiv 2406.09770, algorithm 1).

    At each step a preference is drawn, the model's weights are merged by it once, and every task gives one batch,
    differentiated by the routers' parameters at once, so that memory does not grow with the number of tasks. Of these
    gradients, [T, P], the scalarization reads the products with one another; the weights that it chooses for the losses
    make the gradient of the step, which is Adam's. The model runs in evaluation mode (no dropout); its mode and its
    preference are restored.

    Args:
        model: made by `wemoe.upcycle(..., method="pwemoe")`; only its routers move.
        loaders: by task, labelled batches (16 samples each in the published setting): iterables that can be iterated
            again, or are long enough. Tensors in a batch are moved to the model's device.
        losses: `losses(model, batch, task)` gives the mean loss of a batch, a scalar (`Suite.loss`); or by task, a
            function of model and batch.
        scalarization: `ls` (linear: losses weighted by the preference), `epo` (exact Pareto optimal: losses driven to
            where their products with the preference are equal), or one of your own.
        steps: number of optimiser steps in all.
        learning_rate: of Adam at the first step (betas 0.9 and 0.999, no decay).
        final_rate: share of it that a cosine goes down to; 1 keeps it constant.
        concentration: of the Dirichlet distribution of preferences; 1 is uniform, more of it is nearer to equal ones.
        seed: of the preferences, and of torch's global generator while training; its state is restored afterwards. On
            a CPU, one seed gives bit-equal runs.
        progress: whether to show a progress bar.
        log: file that gains one JSON line per step.
        checkpoint: file to resume from if it exists, and to save to: routers, optimiser, step, random state and
            history. The batches are drawn again up to the step reached, so loaders must be seeded alike. What a
            scalarization of your own keeps is not saved.
        checkpoint_every: steps between two saves; an interrupt saves as well.

    Returns:
        The history, and how often the scalarization fell back.

    Raises:
        OSError: the checkpoint's folder cannot be written; checked before any work.
        TypeError: the model is not steered by a preference, `loaders` is no mapping, or a loss is no scalar tensor.
        ValueError: loaders or losses are not of the model's tasks, an unknown scalarization, a number out of range, an
            empty loader, nothing to train, a loss, a gradient or a weight that is not finite, a loss that no router
            takes part in, or a checkpoint of another run.
    """
    tasks = tuple(steered_backbone(model).routing_config.tasks)
    settings = Settings(tasks, name_of(scalarization), steps, learning_rate, final_rate, concentration, seed)
    _check(settings, checkpoint_every)
    check_tasks("loaders", loaders, tasks, "the model's")
    if isinstance(losses, Mapping):
        check_tasks("losses", losses, tasks, "the model's")
    if checkpoint is not None:
        check_writable(Path(checkpoint).absolute().parent)
    chosen = made(scalarization, SCALARIZATIONS)
    with torch.random.fork_rng(), restoring_preference(model), evaluating(model):
        torch.manual_seed(seed)
        state = ParetoState(model, settings)
        done = state.load(checkpoint)
        opened = open_streams({task: loaders[task] for task in tasks}, done, "loaders")
        rays = _rays(len(tasks), concentration, seed, done)
        take_steps(
            state,
            partial(_direction, model, state.parameters, rays, opened, losses, chosen),
            title=f"train ({settings.scalarization})",
            progress=progress,
            log=log,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
    return training_of(state)


def _check(settings: Settings, checkpoint_every: int) -> None:
    check_settings(settings, checkpoint_every)
    if not (math.isfinite(settings.concentration) and settings.concentration > 0):
        raise ValueError(f"concentration must be positive and finite; found {settings.concentration}")


def _rays(tasks: int, concentration: float, seed: int, skip: int) -> Iterator[Tensor]:
    """Yield the preferences [T] of all steps but those that are done."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(skip):
        sample_ray(tasks, concentration, generator)
    while True:
        yield sample_ray(tasks, concentration, generator)


def _direction(
    model: nn.Module,
    parameters: list[nn.Parameter],
    rays: Iterator[Tensor],
    streams: Mapping[str, Stream[Batch]],
    losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]],
    scalarization: Scalarization,
) -> Direction:
    """Compute a step's direction: at a new preference, from one batch of every task."""
    ray = next(rays)
    set_preference(model, ray)
    with merging_once():
        rows = [_loss_and_gradient(model, parameters, stream, losses, task) for task, stream in streams.items()]
    values = torch.tensor([loss for loss, _ in rows], dtype=torch.float64)
    jacobian = torch.stack([gradient for _, gradient in rows])  # [T, P]
    weights, fallbacks = weigh(scalarization, values, jacobian @ jacobian.T, ray)
    return Direction(ray, values, weights, fallbacks, weights @ jacobian)


def _loss_and_gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    stream: Stream[Batch],
    losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]],
    task: str,
) -> tuple[float, Tensor]:
    """Return the loss of a task's next batch and its gradient [P] by all parameters, fp64 on the CPU."""
    loss = task_loss(model, stream, losses, task)
    # the graph of the merged weights is shared by the losses of all tasks, and goes when the step ends
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    flat = torch.cat([gradient.detach().flatten().to("cpu", torch.float64) for gradient in gradients])
    check_gradient(flat, task, stream.drawn)
    return loss.item(), flat
