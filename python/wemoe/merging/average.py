"""Simple averaging: theta = (1/T) sum_t theta_t, the pre-trained model not included (arXiv 2203.05482)."""

from __future__ import annotations

from wemoe.merging.task_arithmetic import task_arithmetic
from wemoe.task_vectors import Experts, Model, name_experts


def average(base_model: Model, expert_models: Experts[Model]) -> Model:
    """Average the experts, parameter by parameter.

    Equal to task arithmetic with a scaling of 1/T, which is how it is computed: the base gives the class and all
    that is not floating point.

    Args:
        base_model: the pre-trained model; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.

    Returns:
        A new model of the base's class.

    Raises:
        TypeError, ValueError: see `task_arithmetic`.
    """
    experts = name_experts(expert_models)
    return task_arithmetic(base_model, experts, scaling=1 / len(experts))
