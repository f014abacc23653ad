"""The state of an adaptation: that of a training run, and the watches for collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from wemoe.adaptation.collapse import CollapseWatch
from wemoe.adaptation.objectives import mean_entropy
from wemoe.training_state import Record, TrainingState

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Settings:
    """What two runs must share for one to go on where the other stopped."""

    tasks: tuple[str, ...]
    objective: str
    steps: int
    learning_rate: float
    schedule: str
    seed: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Answers:
    """What a step saw, whose gradients the parameters hold.

    Attributes:
        losses: by task.
        logits: by task, detached, [S, C].
    """

    losses: dict[str, float]
    logits: dict[str, Tensor]


class AdaptationState(TrainingState[Answers]):
    """A training run with a watch for the collapse of each task.

    Args:
        model: whose parameters that require gradients are trained.
        settings: of the run.

    Raises:
        ValueError: no parameter requires gradients.
    """

    saved_by = "adapt"

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model, settings)
        self.watches = {task: CollapseWatch(task) for task in settings.tasks}

    def advance(self, computed: Answers) -> Record:
        """Take the optimiser step of the gradients at hand; see the base class."""
        losses, logits = computed.losses, computed.logits
        record = self._take_step() | {
            "loss": sum(losses.values()),
            "losses": losses,
            "entropy": {task: mean_entropy(rows).item() for task, rows in logits.items()},
            "diversity": {task: self.watches[task].observe(rows) for task, rows in logits.items()},
        }
        self.history.append(record)
        return record

    def _beside(self) -> dict[str, Any]:
        return {"watches": {task: watch.state() for task, watch in self.watches.items()}}

    def _restore_beside(self, state: dict[str, Any]) -> None:
        for task, watch in self.watches.items():
            watch.restore(state["watches"][task])
