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

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wemoe.merging.options import PerExpert, densities_of, weights_of
from wemoe.merging.rules import MergeRows, RowRule, Rule, Sources, exact, merge
from wemoe.merging.task_arithmetic import TaskRows
from wemoe.merging.transforms import trim
from wemoe.merging.trimming import Trimming, norm_ratios
from wemoe.task_vectors import TaskVector, check_scaling, compute_task_vectors
from wemoe.weights import ExpertSources, Rows, Source

MergeFunction = Literal["mean", "sum"]
Scope = Literal["model", "tensor"]


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
) -> Any:
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
        keepers = trimming.keepers(name)
        scales = norm_ratios(sources, name, trimming.keepers(name)) if rescale else {}

        def scaled(task: str, rows: Rows) -> Tensor:
            tau = sources.task_vector(task, name, rows)
            tau = keepers[task].keep(tau) if task in keepers else tau
            return tau * (shares[task] * scales.get(task, 1.0))

        return scaled

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

    def read(scaled: TaskRows, rows: Rows) -> list[Tensor]:
        return [scaled(task, rows) for task in sources.experts]

    @cache
    def majority() -> int:
        if per == "tensor":
            return 1
        signs = 0
        for name in sources.names:
            scaled = start(name)
            signs += sum(_sum_of_signs(sum_tensors(read(scaled, rows))) for rows in sources.rows(name))
        return _sign(signs)

    def begin(name: str) -> MergeRows:
        scaled = start(name)

        def merge_rows(rows: Rows) -> Tensor:
            agreeing = _agreeing(read(scaled, rows), majority)
            merged = sum_tensors(agreeing)
            if mean:
                merged /= _total_weight(agreeing, list(weights.values()))
            return exact(sources.base_tensor(name, rows)) + scaling * merged

        return merge_rows

    return RowRule(sources, begin)


def trimmed_task_vectors(
    base_model: nn.Module, experts: Mapping[str, nn.Module], density: float
) -> dict[str, TaskVector]:
    """Return the task vectors of checked experts, their parameters trimmed, their buffers whole."""
    parameters = {name for name, _ in base_model.named_parameters()}
    task_vectors = compute_task_vectors(base_model, experts)
    return {task: tau | trim(_only(tau, parameters), density) for task, tau in task_vectors.items()}


def elect(task_vectors: Sequence[Mapping[str, Tensor]]) -> list[TaskVector]:
    """Zero the entries of T task vectors whose sign is not the elected one."""
    majority = _sign(sum(_sum_of_signs(sum_of(task_vectors, name)) for name in task_vectors[0]))
    result: list[TaskVector] = [{} for _ in task_vectors]
    for name in task_vectors[0]:
        agreeing = _agreeing([tau[name] for tau in task_vectors], lambda: majority)
        for kept, tensor in zip(result, agreeing, strict=True):
            kept[name] = tensor
    return result


def sum_of(task_vectors: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """Return the sum of one tensor over T task vectors."""
    return sum_tensors([tau[name] for tau in task_vectors])


def sum_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of T tensors, in their order."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


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


def _only(task_vector: TaskVector, names: Collection[str]) -> TaskVector:
    return {name: tensor for name, tensor in task_vector.items() if name in names}
