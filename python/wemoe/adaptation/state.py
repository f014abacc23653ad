"""The state of an adaptation: what moves at each step, and how an interrupted run is resumed."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wemoe.adaptation.collapse import CollapseWatch
from wemoe.adaptation.objectives import mean_entropy
from wemoe.files import replacing_file

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


class AdaptationState:
    """Trained parameters, optimiser, collapse watches, history and random state.

    Args:
        model: whose parameters that require gradients are trained.
        settings: of the run.

    Raises:
        ValueError: no parameter requires gradients.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.settings = settings
        self.history: list[dict[str, Any]] = []
        self.watches = {task: CollapseWatch(task) for task in settings.tasks}
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("model must have parameters that require gradients (its routers); found none")
        self._optimizer = torch.optim.Adam(self._trained.values(), lr=settings.learning_rate)
        self._optimizer.zero_grad()
        self._random_state = torch.get_rng_state()

    def advance(self, losses: dict[str, float], logits: dict[str, Tensor]) -> dict[str, Any]:
        """Take the optimiser step of the gradients at hand.

        Args:
            losses: by task.
            logits: by task, detached, [S, C].

        Returns:
            The record of the step, which the history has gained.
        """
        step = len(self.history)
        rate = self.settings.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        record = {
            "step": step + 1,
            "loss": sum(losses.values()),
            "learning_rate": rate,
            "losses": losses,
            "entropy": {task: mean_entropy(rows).item() for task, rows in logits.items()},
            "diversity": {task: self.watches[task].observe(rows) for task, rows in logits.items()},
        }
        self.history.append(record)
        return record

    def remember_random_state(self) -> None:
        """Note the random state between two steps, the one a resumed run starts from."""
        self._random_state = torch.get_rng_state()

    def restore_random_state(self) -> None:
        """Go on from the random state that was noted last."""
        torch.set_rng_state(self._random_state)

    def save(self, file: str | os.PathLike[str] | None) -> None:
        """Write all of it to a file, under a temporary name first; nothing without a file."""
        if file is None:
            return
        state = {
            "settings": dataclasses.asdict(self.settings),
            "parameters": {name: p.detach() for name, p in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "watches": {task: watch.state() for task, watch in self.watches.items()},
            "history": self.history,
            "random_state": self._random_state,
        }
        with replacing_file(file) as staging:
            torch.save(state, staging)

    def load(self, file: str | os.PathLike[str] | None) -> int:
        """Take over the state of a file, if there is one.

        Returns:
            The number of steps done.

        Raises:
            ValueError: the file is damaged, or belongs to a run of other settings or parameters.
        """
        if file is None or not Path(file).exists():
            self.remember_random_state()
            return 0
        state = _read(Path(file))
        found, wanted = state["settings"], dataclasses.asdict(self.settings)
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            pairs = "; ".join(f"{name}: {found.get(name)!r}, here {wanted[name]!r}" for name in differing)
            raise ValueError(f"checkpoint {str(file)!r} must be of a run of the same settings; found {pairs}")
        self._load_parameters(state["parameters"], file)
        self._optimizer.load_state_dict(state["optimizer"])
        for task, watch in self.watches.items():
            watch.restore(state["watches"][task])
        self.history.extend(state["history"])
        self._random_state = state["random_state"]
        return len(self.history)

    def _load_parameters(self, saved: dict[str, Tensor], file: str | os.PathLike[str]) -> None:
        shapes = {name: p.shape for name, p in self._trained.items()}
        if {name: tensor.shape for name, tensor in saved.items()} != shapes:
            raise ValueError(f"checkpoint {str(file)!r} must hold this model's routers; found others")
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(saved[name])


def _read(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {str(file)!r} must be one that adapt saved; found: {error}") from error
    if not isinstance(state, dict) or "settings" not in state:
        raise ValueError(f"checkpoint {str(file)!r} must be one that adapt saved; found something else")
    return state
