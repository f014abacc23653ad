"""Watching for collapse: entropy minimisation can drive a task's predictions into one class."""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any

import torch
from torch import Tensor

from wemoe.adaptation.objectives import distribution_entropy, mean_distribution

WINDOW = 10  # batches whose mean class distribution is compared
COLLAPSED_BELOW = 0.5  # share of the starting entropy; two balanced classes reach it at 89 % in one class


class CollapseWarning(UserWarning):
    """A task's predictions are gathering in few classes."""


class CollapseWatch:
    """Compares the mean class distribution of a task's latest batches with that of its first ones.

    Args:
        task: name for the warning.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.collapsed = False
        self._marginals: deque[Tensor] = deque(maxlen=WINDOW)
        self._start: float | None = None

    def observe(self, logits: Tensor) -> float:
        """Take the logits [S, C] of a batch; warn, once, when the task collapses.

        Returns:
            Entropy, in nats, of the mean class distribution over the latest batches.
        """
        self._marginals.append(mean_distribution(logits))
        marginal = torch.stack(tuple(self._marginals)).mean(dim=0)
        diversity = float(distribution_entropy(marginal))
        if len(self._marginals) == WINDOW:
            self._start = diversity if self._start is None else self._start
            self._warn_below(COLLAPSED_BELOW * self._start, diversity, marginal)
        return diversity

    def _warn_below(self, limit: float, diversity: float, marginal: Tensor) -> None:
        if self.collapsed or diversity >= limit:
            return
        self.collapsed = True
        warnings.warn(
            f"task {self.task!r} is collapsing: the entropy of its mean class distribution fell from "
            f"{self._start:.3f} to {diversity:.3f} nats; {float(marginal.max()):.0%} are in class "
            f"{int(marginal.argmax())}. "
            "A smaller learning rate, fewer steps, or objective='match' or 'infomax' may prevent it.",
            CollapseWarning,
            stacklevel=5,
        )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, in plain types and tensors."""
        return {"marginals": list(self._marginals), "start": self._start, "collapsed": self.collapsed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._marginals.clear()
        self._marginals.extend(state["marginals"])
        self._start = state["start"]
        self.collapsed = bool(state["collapsed"])
