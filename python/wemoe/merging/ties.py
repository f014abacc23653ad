"""TIES-Merging: trim, elect sign, disjoint merge (arXiv 2306.01708, section 4, algorithm 1).

1. Trim: of every task vector tau_t, as a whole, the share `density` of largest magnitude is kept, the rest is zero.
2. Elect: the sign of each entry is that of sum_t tau_t. Where the sum is zero it is the sign that most entries have,
   over all parameters, as the published code has it.
3. Disjoint merge: of the entries that agree with the elected sign, the mean, tau = sum / number of them (zeros do not
   count). Published code of later papers takes their plain sum instead.

Then theta = theta_0 + scaling * tau. With weights, w_t tau_t takes the place of tau_t after trimming, and the mean is
sum_t w_t tau_t / sum_t w_t over the entries that agree.

Models are read in passes, a few rows at a time: two passes find the thresholds, a third one shares out what equals
them where not all of that is kept, and a last one merges. The majority is counted when an entry first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from wemoe.merging.options import PerExpert, densities_of, weights_of
from wemoe.merging.rules import MergeRows, RowRule, Rule, Sources, merge
from wemoe.merging.signatures import Merged, keeps_kind
from wemoe.merging.task_arithmetic import TaskRows
from wemoe.merging.trimming import Trimming, norm_ratios
from wemoe.task_vectors import check_scaling, exact
from wemoe.weights import ExpertSources, Rows, Source

MergeFunction = Literal["mean", "sum"]
Scope = Literal["model", "tensor"]


@keeps_kind
def ties(
    base_model: Source,
    expert_models: ExpertSources,
    density: float | PerExpert = 0.2,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
    *,
    weights: PerExpert | None = None,
    normalize: bool | None = None,
    per: Scope = "model",
    rescale: bool = False,
) -> Merged:
    """Merge what remains of the task vectors after trimming and electing signs.

    Parameters are trimmed; floating-point buffers, running statistics say, are not, and go through the other two
    steps. Tied parameters count once.

    Args:
        base_model: the pre-trained model theta_0, as in `task_arithmetic`; untouched.
        expert_models: T models fine-tuned from it, as in `task_arithmetic`; untouched.
        density: share of each task vector's entries to keep, exactly int(density * number of entries) of them.
            Published code keeps one more. One number, or one for each expert.
        scaling: lambda. 1 goes with `mean`, the paper's; with `sum` the published experiments take 0.3 for eight
            tasks.
        merge_func: `mean`, the paper's, or `sum`, that of the code of AdaMerging, WEMoE and FusionBench.
        weights: one number w_t for each expert, by task name or in the experts' order; 1 by default.
        normalize: mergekit's word for `merge_func`: True is its `mean` and False its `sum`; None is what `merge_func`
            says.
        per: `model` trims each task vector as a whole, as the paper does. `tensor` trims each of its tensors for
            itself, of which at least one entry is kept, and a sum of zero elects plus, as mergekit does.
        rescale: give what is kept of each tensor the norm sum |tau| that the whole tensor had, as mergekit's option
            of that name does.

    Returns:
        As in `task_arithmetic`.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `density` is not in
            (0, 1], `scaling` or one of `weights` is not finite, `merge_func` or `per` is unknown, a sum is beyond the
            range of a float16 base, or a file is damaged.
    """
    make_rule = partial(
        ties_rule,
        density=density,
        scaling=scaling,
        merge_func=merge_func,
        weights=weights,
        normalize=normalize,
        per=per,
        rescale=rescale,
    )
    return merge(base_model, expert_models, make_rule)


def ties_rule(
    sources: Sources,
    *,
    density: float | PerExpert = 0.2,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
    weights: PerExpert | None = None,
    normalize: bool | None = None,
    per: Scope = "model",
    rescale: bool = False,
) -> Rule:
    """Make the rule of `ties`, after the passes that find the thresholds; its arguments are checked."""
    tasks = tuple(sources.experts)
    densities, shares = densities_of(density, tasks), weights_of(weights, tasks)
    check_disjoint_merge(scaling, merge_func, per)
    sources.check()
    trimming = Trimming.of_models(sources, densities) if per == "model" else Trimming.of_tensors(sources, densities)

    def start(name: str) -> TaskRows:
        rows_of = _trimmed_rows(sources, trimming, name)
        scales = norm_ratios(sources, name, trimming.keepers(name)) if rescale else {}
        return lambda task, rows: rows_of(task, rows) * (shares[task] * scales.get(task, 1.0))

    mean = merge_func == "mean" if normalize is None else normalize
    return disjoint_rule(sources, start, scaling, shares, mean, per)


def check_disjoint_merge(scaling: float, merge_func: str, per: str) -> None:
    """Check the options of a disjoint merge.

    Raises:
        ValueError: the scaling is not finite, or the name of a merge or of its scope is unknown.
    """
    check_scaling(scaling)
    if merge_func not in ("mean", "sum"):
        raise ValueError(f"merge_func must be 'mean' or 'sum'; found {merge_func!r}")
    if per not in ("model", "tensor"):
        raise ValueError(f"per must be 'model' or 'tensor'; found {per!r}")


def disjoint_rule(
    sources: Sources,
    start: Callable[[str], TaskRows],
    scaling: float,
    weights: Mapping[str, float],
    mean: bool,
    per: Scope,
) -> Rule:
    """Make the rule that elects signs and merges what agrees with them.

    Args:
        sources: what is merged.
        start: gives, for a name, a function from task and rows to rows of w_t tau_t; asked for rows in order.
        scaling: lambda.
        weights: w_t by task.
        mean: whether the merged entries are divided by the sum of their weights.
        per: whether a sum of zero elects the sign that most entries of the `model` have, or plus (`tensor`).
    """
    majority = _majority(sources, start) if per == "model" else lambda: 1

    def begin(name: str) -> MergeRows:
        scaled = start(name)

        def merge_rows(rows: Rows) -> Tensor:
            agreeing = _agreeing(_read(sources, scaled, rows), majority)
            merged = sum_tensors(agreeing)
            if mean:
                merged /= _total_weight(agreeing, list(weights.values()))
            return exact(sources.base_tensor(name, rows)) + scaling * merged

        return merge_rows

    return RowRule(sources, begin)


def elected_task_vectors(sources: Sources, density: float) -> Callable[[str], list[Tensor]]:
    """Find what TIES makes of each expert's task vector: trimmed as a whole, without entries of another sign.

    Args:
        sources: checked.
        density: share of each task vector's entries to keep before signs are elected.

    Returns:
        A function from a name to that tensor of all T task vectors, computed when it is asked for.
    """
    trimming = Trimming.of_models(sources, dict.fromkeys(sources.experts, density))
    start = partial(_trimmed_rows, sources, trimming)
    majority = _majority(sources, start)
    return lambda name: _agreeing(_read(sources, start(name), ...), majority)


def sum_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of T tensors, in their order."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def _trimmed_rows(sources: Sources, trimming: Trimming, name: str) -> TaskRows:
    """Return the function from task and rows to rows of trimmed task vectors, of parameters; buffers are whole."""
    keepers = trimming.keepers(name)

    def rows_of(task: str, rows: Rows) -> Tensor:
        tau = sources.task_vector(task, name, rows)
        return keepers[task].keep(tau) if task in keepers else tau

    return rows_of


def _read(sources: Sources, rows_of: TaskRows, rows: Rows) -> list[Tensor]:
    return [rows_of(task, rows) for task in sources.experts]


def _majority(sources: Sources, start: Callable[[str], TaskRows]) -> Callable[[], int]:
    """Return what tells the sign that most entries of the summed task vectors have, once it is asked for."""

    @cache
    def majority() -> int:
        signs = 0
        for name in sources.names:
            rows_of = start(name)
            signs += sum(_sum_of_signs(sum_tensors(_read(sources, rows_of, rows))) for rows in sources.rows(name))
        return _sign(signs)

    return majority


def _agreeing(tensors: Sequence[Tensor], majority: Callable[[], int]) -> list[Tensor]:
    """Zero the entries whose sign is not that of their sum; where it is zero, not that of the majority."""
    elected = sum_tensors(tensors).sign()
    cancelled = (elected == 0) & (sum_tensors([tensor.abs() for tensor in tensors]) != 0)
    if bool(cancelled.any()):
        elected = elected + cancelled * majority()
    return [tensor * (tensor.sign() * elected).clamp_(min=0) for tensor in tensors]


def _total_weight(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return, entry by entry, the sum of the weights of the tensors that are not zero there; 1 where it is zero."""
    total = sum_tensors([tensor.sign().abs_() * weight for tensor, weight in zip(tensors, weights, strict=True)])
    return total + (total == 0)


def _sum_of_signs(total: Tensor) -> int:
    return int(total.sign().sum(dtype=torch.float64))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
