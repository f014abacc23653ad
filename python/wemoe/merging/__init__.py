"""Static merging: one set of weights from a base and its fine-tuned experts, one file for each published method."""

from collections.abc import Callable

from wemoe.merging.average import average, average_rule
from wemoe.merging.dare import dare_linear, dare_linear_rule, dare_ties, dare_ties_rule
from wemoe.merging.fisher import fisher
from wemoe.merging.regmean import regmean
from wemoe.merging.rules import Rule
from wemoe.merging.task_arithmetic import task_arithmetic, task_arithmetic_rule
from wemoe.merging.ties import ties, ties_rule

# every method that gives a plain model: a function of `wemoe` of this name, with (base_model, expert_models, ...)
METHODS = {
    "average": "weighted mean of the experts",
    "task_arithmetic": "base plus the scaled sum of the task vectors",
    "ties": "task vectors trimmed by magnitude; entries of the elected sign merged",
    "dare_linear": "task arithmetic of task vectors whose entries were dropped at random",
    "dare_ties": "entries of the elected sign of task vectors whose entries were dropped at random",
    "fisher": "mean of the experts, each entry weighted by its Fisher information on the task's inputs",
    "regmean": "linear maps by regression on the tasks' inputs, the rest averaged",
    "adamerging": "task arithmetic whose coefficients are learned on unlabeled data",
}

# the methods that read no data: what makes a rule of sources and the method's options
RULES: dict[str, Callable[..., Rule]] = {
    "average": average_rule,
    "task_arithmetic": task_arithmetic_rule,
    "ties": ties_rule,
    "dare_linear": dare_linear_rule,
    "dare_ties": dare_ties_rule,
}

__all__ = ["METHODS", "RULES", "average", "dare_linear", "dare_ties", "fisher", "regmean", "task_arithmetic", "ties"]
