"""Pareto fronts: one routed model for all preferences between tasks, its training, and what is measured of it."""

from wemoe.pareto.fronts import Front, Measured, Point, evaluate, read_front_json, write_front_csv, write_front_json
from wemoe.pareto.training import Training, train

__all__ = [
    "Front",
    "Measured",
    "Point",
    "Training",
    "evaluate",
    "read_front_json",
    "train",
    "write_front_csv",
    "write_front_json",
]
