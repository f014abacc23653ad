"""Every method and objective on one suite, over seeds: means, and how far seeds lie apart."""

from wemoe.over_seeds.experiments import EXPERIMENTS
from wemoe.over_seeds.running import RESULTS, evaluate_suite
from wemoe.over_seeds.summary import summarise

__all__ = ["EXPERIMENTS", "RESULTS", "evaluate_suite", "summarise"]
