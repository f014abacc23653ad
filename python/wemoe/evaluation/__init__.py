"""Scoring one model on many tasks."""

from wemoe.evaluation.accuracy import evaluate

__all__ = ["evaluate"]
