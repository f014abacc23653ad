"""Averaging: theta = sum_t w_t theta_t / sum_t w_t, the pre-trained model not included (arXiv 2203.05482)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from wemoe.merging.options import PerExpert, per_expert
from wemoe.merging.rules import RowRule, Rule, Sources, merge
from wemoe.merging.signatures import Merged, keeps_kind
from wemoe.task_vectors import exact
from wemoe.weights import ExpertSources, Rows, Source


@keeps_kind
def average(
    base_model: Source, expert_models: ExpertSources, weights: PerExpert | None = None, *, normalize: bool = True
) -> Merged:
    """Average the experts, parameter by parameter.

    With equal weights it is equal to task arithmetic with a scaling of 1/T. The base gives the class and all that is
    not floating point.

    Args:
        base_model: the pre-trained model, as in `task_arithmetic`; untouched.
        expert_models: T models fine-tuned from it, as in `task_arithmetic`; untouched.
        weights: one number for each expert, by task name or in the experts' order; equal ones by default.
        normalize: divide the weights by their sum, as mergekit's method `linear` does, so that only their ratios
            count; False is their plain weighted sum.

    Returns:
        As in `task_arithmetic`.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `weights` are not
            one finite number for each expert, with a positive sum where they are normalised, or a file is damaged.
    """
    return merge(base_model, expert_models, partial(average_rule, weights=weights, normalize=normalize))


def average_rule(sources: Sources, *, weights: PerExpert | None = None, normalize: bool = True) -> Rule:
    """Make the rule of `average`; its arguments are checked."""
    tasks = tuple(sources.experts)
    shares = _shares(weights, tasks, normalize)

    def merge_rows(name: str, rows: Rows) -> Tensor:
        device = sources.base_tensor(name, rows).device
        return weighted_sum((sources.expert_tensor(task, name, rows) for task in tasks), shares, device)

    return RowRule(sources, lambda name: partial(merge_rows, name))


def weighted_sum(tensors: Iterable[Tensor], weights: Iterable[float | Tensor], device: torch.device) -> Tensor:
    """Return sum_t w_t x_t of tensors of one shape, each with a number or entries of its own, in fp32 or better."""
    terms = (exact(tensor, device) * weight for tensor, weight in zip(tensors, weights, strict=True))
    total = next(terms)
    for term in terms:
        total += term
    return total


def _shares(weights: PerExpert | None, tasks: tuple[str, ...], normalize: bool) -> list[float]:
    if weights is None:
        return [1 / len(tasks) if normalize else 1.0] * len(tasks)
    values = list(per_expert("weights", weights, tasks).values())
    total = sum(values)
    if not normalize:
        return values
    if not (math.isfinite(total) and total > 0):
        raise ValueError(f"weights must be finite numbers with a positive sum; found {values}")
    return [value / total for value in values]
