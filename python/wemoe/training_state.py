"""The state of a training run of few parameters: what moves at each step, and how an interrupted run is resumed."""

from __future__ import annotations

import dataclasses
import os
import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from wemoe.files import replacing_file

Computed = TypeVar("Computed")
Record = dict[str, Any]  # of one step, as JSON holds it


class RunSettings(Protocol):
    """What two runs must share for one to go on where the other stopped; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Number of optimiser steps in all."""

    @property
    def learning_rate(self) -> float:
        """That of the first step."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""


class TrainingState(ABC, Generic[Computed]):
    """Trained parameters, their optimiser, history and random state.

    A subclass says what becomes of what a step computes.

    Args:
        model: whose parameters that require gradients are trained by Adam (betas 0.9 and 0.999, no decay).
        settings: of the run.

    Raises:
        ValueError: no parameter requires gradients.
    """

    saved_by: ClassVar[str]  # the function whose checkpoints these are

    def __init__(self, model: nn.Module, settings: RunSettings) -> None:
        self.settings = settings
        self.history: list[Record] = []
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("model must have parameters that require gradients (its routers); found none")
        self._optimizer = torch.optim.Adam(self._trained.values(), lr=settings.learning_rate)
        self._optimizer.zero_grad()
        self._random_state = torch.get_rng_state()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._trained.values())

    @abstractmethod
    def advance(self, computed: Computed) -> Record:
        """Take the optimiser step of what was computed for it.

        Returns:
            The record of the step, which the history has gained.
        """

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
            "history": self.history,
            "random_state": self._random_state,
            **self._beside(),
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
        state = self._read(Path(file))
        found, wanted = state["settings"], dataclasses.asdict(self.settings)
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            pairs = "; ".join(f"{name}: {found.get(name)!r}, here {wanted[name]!r}" for name in differing)
            raise ValueError(f"checkpoint {str(file)!r} must be of a run of the same settings; found {pairs}")
        self._load_parameters(state["parameters"], file)
        self._optimizer.load_state_dict(state["optimizer"])
        self._restore_beside(state)
        self.history.extend(state["history"])
        self._random_state = state["random_state"]
        return len(self.history)

    def _beside(self) -> dict[str, Any]:
        """Return what a subclass keeps beside, by names of its own."""
        return {}

    def _restore_beside(self, state: dict[str, Any]) -> None:
        """Take over what `_beside` gave, from the state of a file."""

    def _take_step(self) -> Record:
        """Move the parameters by their gradients; return the beginnings of the step's record."""
        step = len(self.history)
        rate = self.settings.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return {"step": step + 1, "learning_rate": rate}

    def _load_parameters(self, saved: dict[str, Tensor], file: str | os.PathLike[str]) -> None:
        shapes = {name: p.shape for name, p in self._trained.items()}
        if {name: tensor.shape for name, tensor in saved.items()} != shapes:
            raise ValueError(f"checkpoint {str(file)!r} must hold this model's routers; found others")
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(saved[name])

    def _read(self, file: Path) -> dict[str, Any]:
        rule = f"checkpoint {str(file)!r} must be one that {self.saved_by} saved"
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(f"{rule}; found: {error}") from error
        if not isinstance(state, dict) or "settings" not in state:
            raise ValueError(f"{rule}; found something else")
        return state
