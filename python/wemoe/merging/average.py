"""Averaging: theta = sum_t w_t theta_t / sum_t w_t, the pre-trained model not included (arXiv 2203.05482)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from wemoe.task_vectors import (
    Experts,
    Model,
    check_experts,
    exact_tensor,
    floating_tensors,
    name_experts,
    with_tensors,
)


def average(
    base_model: Model,
    expert_models: Experts[Model],
    weights: Mapping[str, float] | Sequence[float] | None = None,
) -> Model:
    """Average the experts, parameter by parameter.

    With equal weights it is equal to task arithmetic with a scaling of 1/T. The base gives the class and all that is
    not floating point.

    Args:
        base_model: the pre-trained model; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.
        weights: one number for each expert, by task name or in the experts' order; equal ones by default. They are
            divided by their sum, as mergekit's method `linear` does, so that only their ratios count.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, or `weights` are not
            one finite number for each expert with a positive sum.
    """
    experts = name_experts(expert_models)
    check_experts(base_model, experts)
    shares = _shares(weights, tuple(experts))
    states = {task: expert.state_dict() for task, expert in experts.items()}
    averaged = (
        (name, weighted_sum((states[task][name] for task in experts), shares, theta.device))
        for name, theta in floating_tensors(base_model).items()
    )
    return with_tensors(base_model, averaged)


def weighted_sum(tensors: Iterable[Tensor], weights: Iterable[float | Tensor], device: torch.device) -> Tensor:
    """Return sum_t w_t x_t of tensors of one shape, each with a number or entries of its own, in fp32 or better."""
    terms = (exact_tensor(tensor, device) * weight for tensor, weight in zip(tensors, weights, strict=True))
    total = next(terms)
    for term in terms:
        total += term
    return total


def _shares(weights: Mapping[str, float] | Sequence[float] | None, tasks: tuple[str, ...]) -> list[float]:
    if weights is None:
        return [1 / len(tasks)] * len(tasks)
    named = weights if isinstance(weights, Mapping) else dict(enumerate(weights))
    wanted = tasks if isinstance(weights, Mapping) else tuple(range(len(tasks)))
    if set(named) != set(wanted):
        raise ValueError(f"weights must hold one number for each expert, {list(wanted)}; found {list(named)}")
    values = [float(named[task]) for task in wanted]  # type: ignore[index]  # keys were compared above
    total = sum(values)
    if not (math.isfinite(total) and total > 0):
        raise ValueError(f"weights must be finite numbers with a positive sum; found {values}")
    return [value / total for value in values]
