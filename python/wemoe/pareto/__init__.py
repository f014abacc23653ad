"""Pareto fronts: one routed model for all preferences between tasks, its training, and what is measured of it."""

from wemoe.evaluation import Measured
from wemoe.pareto.baselines import (
    base_front,
    coefficient_grid_front,
    individual_front,
    search_scaling,
    task_arithmetic_front,
)
from wemoe.pareto.charts import plot_accuracies, plot_front, plot_two_tasks
from wemoe.pareto.epo import EPO
from wemoe.pareto.fronts import Front, Point, evaluate, read_front_json, write_front_csv, write_front_json
from wemoe.pareto.full_model import fine_tune_together
from wemoe.pareto.metrics import controllability, hypervolume, non_dominated, non_uniformity
from wemoe.pareto.mgda import MGDA
from wemoe.pareto.rays import equal_weights, sample_ray, simplex_grid
from wemoe.pareto.scalarizations import SCALARIZATIONS, LinearScalarization, Scalarization
from wemoe.pareto.steps import Training
from wemoe.pareto.training import train

__all__ = [
    "EPO",
    "MGDA",
    "SCALARIZATIONS",
    "Front",
    "LinearScalarization",
    "Measured",
    "Point",
    "Scalarization",
    "Training",
    "base_front",
    "coefficient_grid_front",
    "controllability",
    "equal_weights",
    "evaluate",
    "fine_tune_together",
    "hypervolume",
    "individual_front",
    "non_dominated",
    "non_uniformity",
    "plot_accuracies",
    "plot_front",
    "plot_two_tasks",
    "read_front_json",
    "sample_ray",
    "search_scaling",
    "simplex_grid",
    "task_arithmetic_front",
    "train",
    "write_front_csv",
    "write_front_json",
]
