"""Task arithmetic: theta = theta_0 + scaling * sum_t w_t tau_t for every parameter (arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wemoe.merging.options import PerExpert, weights_of
from wemoe.merging.rules import MergeRows, RowRule, Rule, Sources, merge
from wemoe.merging.signatures import Merged, keeps_kind
from wemoe.task_vectors import check_scaling, exact
from wemoe.weights import ExpertSources, Rows, Source

TaskRows = Callable[[str, Rows], Tensor]  # task and rows to rows of its weighted task vector
NO_SUM = 1e-8  # a sum of weights of less than this divides nothing, as mergekit has it


@keeps_kind
def task_arithmetic(
    base_model: Source,
    expert_models: ExpertSources,
    scaling: float = 0.3,
    *,
    weights: PerExpert | None = None,
    normalize: bool = False,
) -> Merged:
    """Add the scaled sum of all task vectors to the base.

    Embeddings, norms and biases are treated like weights; tensors that are not floating point stay the base's.

    Args:
        base_model: the pre-trained model theta_0, as any source of `wemoe.weights`: a module, a state dict, a folder
            or repository of safetensors; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; of any of these kinds, or
            LoRA adapters; untouched.
        scaling: lambda, one number for all task vectors; 0.3 is the published default for eight tasks.
        weights: one number w_t for each expert, by task name or in the experts' order; 1 by default.
        normalize: divide the sum by that of the weights.

    Returns:
        For a module, a new one of its class, in its dtype and on its device; else a state dict. A base with a head of
        its own comes out as its backbone where the experts have other heads.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `scaling` or one of
            `weights` is not, or a file is damaged.
    """
    make_rule = partial(task_arithmetic_rule, scaling=scaling, weights=weights, normalize=normalize)
    return merge(base_model, expert_models, make_rule)


def task_arithmetic_rule(
    sources: Sources, *, scaling: float = 0.3, weights: PerExpert | None = None, normalize: bool = False
) -> Rule:
    """Make the rule of `task_arithmetic`; its arguments are checked."""
    check_scaling(scaling)
    shares = weights_of(weights, tuple(sources.experts))
    return linear_rule(sources, lambda name: partial(_weighted_tau, sources, name, shares), scaling, shares, normalize)


def linear_rule(
    sources: Sources,
    start: Callable[[str], TaskRows],
    scaling: float,
    weights: dict[str, float],
    normalize: bool,
) -> RowRule:
    """Make the rule theta_0 + scaling * sum_t w_t tau_t, of task vectors as `start` gives them.

    Args:
        sources: what is merged.
        start: gives, for a name, a function from task and rows to rows of w_t tau_t.
        scaling: lambda.
        weights: w_t by task.
        normalize: whether to divide by the sum of the weights.
    """
    divisor = sum(weights.values()) if normalize else 1.0
    divisor = divisor if abs(divisor) >= NO_SUM else 1.0

    def begin(name: str) -> MergeRows:
        scaled = start(name)

        def merge_rows(rows: Rows) -> Tensor:
            theta = exact(sources.base_tensor(name, rows))
            total = torch.zeros_like(theta)
            for task in sources.experts:
                total += scaled(task, rows)
            if divisor != 1:
                total /= divisor
            return theta + scaling * total

        return merge_rows

    return RowRule(sources, begin)


def _weighted_tau(sources: Sources, name: str, weights: dict[str, float], task: str, rows: Rows) -> Tensor:
    tau = sources.task_vector(task, name, rows)
    return tau if weights[task] == 1 else tau * weights[task]
