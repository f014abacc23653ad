"""What every step towards a front has: losses by task, their gradients, and the weights that a scalarization gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wemoe.adaptation.streams import Stream
from wemoe.pareto.scalarizations import Scalarization
from wemoe.pareto.state import ParetoState, Settings
from wemoe.predictions import Batch, to_device
from wemoe.training_steps import check_numbers

TaskLoss = Callable[[nn.Module, Batch], Tensor]  # (model, batch) -> a scalar
Loss = Callable[[nn.Module, Batch, str], Tensor]  # (model, batch, task) -> a scalar


@dataclass(frozen=True)
class Training:
    """What a training run did.

    Attributes:
        history: one record per step: `step` (from 1), `learning_rate`, by task the `ray` (the step's preference), the
            `losses` and the `weights` that the scalarization gave them, `loss` (the losses, weighted), how far the
            losses are from the ray (`non_uniformity`; None where one is negative), and the step's own `fallbacks`.
        fallbacks: how often the scalarization fell back on simpler weights in all steps, by reason.
    """

    history: list[dict[str, Any]]
    fallbacks: Counter[str]


def training_of(state: ParetoState) -> Training:
    """Return what a run has done."""
    fallbacks: Counter[str] = Counter()
    for record in state.history:
        fallbacks.update(record["fallbacks"])
    return Training(state.history, fallbacks)


def made(scalarization: str | Scalarization, known: Mapping[str, Callable[[], Scalarization]]) -> Scalarization:
    """Return a scalarization that was given, or make the one of a name.

    Raises:
        ValueError: the name is not known.
    """
    if not isinstance(scalarization, str):
        return scalarization
    if scalarization not in known:
        raise ValueError(f"scalarization must be one of {sorted(known)}; found {scalarization!r}")
    return known[scalarization]()


def name_of(scalarization: str | Scalarization) -> str:
    """Return what a scalarization is called in checkpoints."""
    if isinstance(scalarization, str):
        return scalarization
    return getattr(scalarization, "__qualname__", type(scalarization).__qualname__)


def check_settings(settings: Settings, checkpoint_every: int) -> None:
    """Check the numbers of a run.

    Raises:
        ValueError: one is out of its range.
    """
    check_numbers(settings, checkpoint_every)
    if not 0 <= settings.final_rate <= 1:
        raise ValueError(f"final_rate must be in [0, 1]; found {settings.final_rate}")


def check_tasks(argument: str, by_task: Mapping[str, object], tasks: tuple[str, ...], whose: str) -> None:
    """Check that a mapping is of all tasks and no others.

    Raises:
        TypeError: it is no mapping.
        ValueError: its tasks are others.
    """
    if not isinstance(by_task, Mapping):
        raise TypeError(f"{argument} must map task names; found {type(by_task).__name__}")
    if by_task.keys() != set(tasks):
        raise ValueError(f"{argument} must be of {whose} tasks, {list(tasks)}; found {list(by_task)}")


def task_loss(
    model: nn.Module, stream: Stream[Batch], losses: Loss[Batch] | Mapping[str, TaskLoss[Batch]], task: str
) -> Tensor:
    """Return the loss of a task's next batch, a scalar with a graph.

    Raises:
        TypeError: it is no scalar tensor.
        ValueError: it is not finite, or depends on nothing that is trained.
    """
    batch = to_device(stream.draw(), next(model.parameters()).device)
    loss = losses[task](model, batch) if isinstance(losses, Mapping) else losses(model, batch, task)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"the loss of task {task!r} must be a scalar tensor; found {found}")
    if not loss.isfinite():
        raise ValueError(f"the loss of task {task!r} must be finite; found {loss.item()} at its batch {stream.drawn}")
    if not loss.requires_grad:
        raise ValueError(f"the loss of task {task!r} must depend on what is trained; found one without a gradient")
    return loss


def check_gradient(gradient: Tensor, task: str, drawn: int) -> None:
    """Raise a ValueError unless a task's gradient is finite."""
    if not gradient.isfinite().all():
        raise ValueError(f"the gradient of task {task!r} must be finite; found another at its batch {drawn}")


def weigh(scalarization: Scalarization, losses: Tensor, gram: Tensor, ray: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Ask a scalarization for the weights of the losses.

    Args:
        scalarization: what is asked.
        losses: [T].
        gram: [T, T], the inner products of their gradients.
        ray: [T].

    Returns:
        The weights [T] in fp64, and how often it fell back, by reason.

    Raises:
        ValueError: it gives no finite weight for each loss.
    """
    before = Counter(getattr(scalarization, "fallbacks", ()))
    weights = scalarization(losses, gram, ray.double())
    if weights.shape != ray.shape or not torch.isfinite(weights).all():
        raise ValueError(
            f"scalarization must give a finite weight for each of {len(ray)} losses; found {weights.tolist()}"
        )
    return weights.double(), dict(Counter(getattr(scalarization, "fallbacks", ())) - before)
