"""Scoring one model on many tasks."""

from wemoe.evaluation.accuracy import evaluate
from wemoe.evaluation.losses import mean_losses
from wemoe.evaluation.measured import Measured
from wemoe.evaluation.predicted import Predicted, predict_all

__all__ = ["Measured", "Predicted", "evaluate", "mean_losses", "predict_all"]
