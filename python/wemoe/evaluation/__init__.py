"""Scoring one model on many tasks."""

from wemoe.evaluation.accuracy import evaluate
from wemoe.evaluation.losses import mean_losses
from wemoe.evaluation.measured import Measured

__all__ = ["Measured", "evaluate", "mean_losses"]
