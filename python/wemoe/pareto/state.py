"""The state of a training run towards a front: that of any run, steered by the weights of a scalarization."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wemoe.pareto.metrics import non_uniformity
from wemoe.training_state import Record, TrainingState


@dataclass(frozen=True)
class Settings:
    """What two runs must share for one to go on where the other stopped."""

    tasks: tuple[str, ...]
    scalarization: str
    steps: int
    learning_rate: float
    final_rate: float
    concentration: float
    seed: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: a cosine down to `final_rate` of the first."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)


@dataclass(frozen=True)
class Direction:
    """Where a step goes.

    Attributes:
        ray: the preference [T].
        losses: [T].
        weights: of the losses, as the scalarization chose them [T].
        fallbacks: how often it fell back in this step, by reason.
        gradient: of the weighted losses, by all trained parameters, flat [P].
    """

    ray: Tensor
    losses: Tensor
    weights: Tensor
    fallbacks: dict[str, int]
    gradient: Tensor


class ParetoState(TrainingState[Direction]):
    """A training run whose steps follow a direction.

    Args:
        model: whose parameters that require gradients are trained.
        settings: of the run.

    Raises:
        ValueError: no parameter requires gradients.
    """

    saved_by = "wemoe.pareto.train"

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        self._tasks = settings.tasks

    def advance(self, computed: Direction) -> Record:
        """Take the optimiser step of a direction; see the base class."""
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, torch.split(computed.gradient, sizes), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter)
        record = self._take_step() | {
            "loss": float(computed.weights @ computed.losses),
            "ray": self._by_task(computed.ray),
            "losses": self._by_task(computed.losses),
            "weights": self._by_task(computed.weights),
            "non_uniformity": _non_uniformity(computed.losses, computed.ray),
            "fallbacks": computed.fallbacks,
        }
        self.history.append(record)
        return record

    def _by_task(self, numbers: Tensor) -> dict[str, float]:
        return dict(zip(self._tasks, numbers.tolist(), strict=True))


def _non_uniformity(losses: Tensor, ray: Tensor) -> float | None:
    return None if (losses < 0).any() else non_uniformity(losses, ray)
