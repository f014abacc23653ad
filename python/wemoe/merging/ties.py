"""TIES-Merging: trim, elect sign, disjoint merge (arXiv 2306.01708, section 4, algorithm 1).

1. Trim: of every task vector tau_t, as a whole, the share `density` of largest magnitude is kept, the rest is zero.
2. Elect: the sign of each entry is that of sum_t tau_t. Where the sum is zero it is the sign that most entries have,
   over all parameters, as the published code has it.
3. Disjoint merge: of the entries that agree with the elected sign, the mean, tau = sum / number of them (zeros do not
   count). Published code of later papers takes their plain sum instead.

Then theta = theta_0 + scaling * tau.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from wemoe.merging.transforms import check_density, trim
from wemoe.task_vectors import (
    Experts,
    Model,
    TaskVector,
    add_task_vector,
    check_experts,
    check_scaling,
    compute_task_vectors,
    name_experts,
)

MergeFunction = Literal["mean", "sum"]


def ties(
    base_model: Model,
    expert_models: Experts[Model],
    density: float = 0.2,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
) -> Model:
    """Merge what remains of the task vectors after trimming and electing signs.

    Parameters are trimmed; floating-point buffers, running statistics say, are not, and go through the other two
    steps. Tied parameters count once.

    Args:
        base_model: the pre-trained model theta_0; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.
        density: share of each task vector's entries to keep, exactly int(density * number of entries) of them.
            Published code keeps one more.
        scaling: lambda. 1 goes with `mean`, the paper's; with `sum` the published experiments take 0.3 for eight
            tasks.
        merge_func: `mean`, the paper's, or `sum`, that of the code of AdaMerging, WEMoE and FusionBench.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `density` is not in
            (0, 1], `scaling` is not finite, `merge_func` is unknown, or a sum is beyond the range of a float16 base.
    """
    experts = name_experts(expert_models)
    check_density(density)
    check_scaling(scaling)
    check_merge_func(merge_func)
    check_experts(base_model, experts)
    task_vectors = elect(list(trimmed_task_vectors(base_model, experts, density).values()))
    return add_task_vector(base_model, disjoint_merge(task_vectors, merge_func), scaling)


def check_merge_func(merge_func: str) -> None:
    """Check the name of a disjoint merge.

    Raises:
        ValueError: it is unknown.
    """
    if merge_func not in ("mean", "sum"):
        raise ValueError(f"merge_func must be 'mean' or 'sum'; found {merge_func!r}")


def trimmed_task_vectors(
    base_model: nn.Module, experts: Mapping[str, nn.Module], density: float
) -> dict[str, TaskVector]:
    """Return the task vectors of checked experts, their parameters trimmed, their buffers whole."""
    parameters = {name for name, _ in base_model.named_parameters()}
    task_vectors = compute_task_vectors(base_model, experts)
    return {task: tau | trim(_only(tau, parameters), density) for task, tau in task_vectors.items()}


def elect(task_vectors: Sequence[Mapping[str, Tensor]]) -> list[TaskVector]:
    """Zero the entries of T task vectors whose sign is not the elected one."""
    names = list(task_vectors[0])
    signs = {name: sum_of(task_vectors, name).sign() for name in names}
    majority = torch.sign(torch.tensor(sum(int(sign.sum(dtype=torch.float64)) for sign in signs.values())))
    result: list[TaskVector] = [{} for _ in task_vectors]
    for name in names:
        elected = torch.where(signs[name] == 0, majority.to(signs[name]), signs[name])
        for tau, kept in zip(task_vectors, result, strict=True):
            kept[name] = torch.where(tau[name].sign() == elected, tau[name], torch.zeros_like(tau[name]))
    return result


def disjoint_merge(task_vectors: Sequence[Mapping[str, Tensor]], merge_func: MergeFunction) -> TaskVector:
    """Merge T task vectors, entry by entry, over those whose entry is not zero."""
    merged = {}
    for name in task_vectors[0]:
        merged[name] = sum_of(task_vectors, name)
        if merge_func == "mean":
            agreeing = torch.stack([tau[name] != 0 for tau in task_vectors]).sum(dim=0)
            merged[name] /= agreeing.clamp(min=1)
    return merged


def sum_of(task_vectors: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """Return the sum of one tensor over T task vectors."""
    total = task_vectors[0][name].clone()
    for tau in task_vectors[1:]:
        total += tau[name]
    return total


def _only(task_vector: TaskVector, names: Collection[str]) -> TaskVector:
    return {name: tensor for name, tensor in task_vector.items() if name in names}
