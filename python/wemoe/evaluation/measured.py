"""What is measured of a model that serves several tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        losses: by task, on validation data.
        accuracies: by task, in [0, 1], on test data.
    """

    losses: dict[str, float]
    accuracies: dict[str, float]
