"""DARE: drop entries of the task vectors at random and rescale the others (arXiv 2311.03099, section 3.2).

    m_t ~ Bernoulli(p)      tau~_t = (1 - m_t) * tau_t / (1 - p)      p = 1 - density

The expectation of tau~_t is tau_t. The result is merged as it is (`dare_linear`, by task arithmetic) or after electing
signs (`dare_ties`, which does not trim by magnitude: dropping takes its place, as in mergekit and PEFT).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from wemoe.merging.ties import MergeFunction, check_merge_func, disjoint_merge, elect
from wemoe.merging.transforms import check_density, drop, seeded_generator
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


def dare_linear(
    base_model: Model, expert_models: Experts[Model], density: float = 0.5, scaling: float = 0.3, seed: int = 0
) -> Model:
    """Add the scaled sum of randomly thinned task vectors to the base: theta_0 + scaling * sum_t tau~_t.

    The seed, the task and the name of a parameter decide what is dropped of it, and nothing else does: torch's
    global random state is neither read nor moved. Floating-point buffers are never dropped.

    Args:
        base_model: the pre-trained model theta_0; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.
        density: probability that an entry stays; 1 is task arithmetic.
        scaling: lambda, one number for all task vectors.
        seed: of what is dropped.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `density` is not in
            (0, 1], `scaling` is not finite, or a sum is beyond the range of a float16 base.
    """
    task_vectors = _thinned(base_model, expert_models, density, scaling, seed)
    return add_task_vector(base_model, disjoint_merge(task_vectors, "sum"), scaling)


def dare_ties(
    base_model: Model,
    expert_models: Experts[Model],
    density: float = 0.5,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
    seed: int = 0,
) -> Model:
    """Merge randomly thinned task vectors as TIES merges trimmed ones.

    Args:
        base_model: as in `dare_linear`.
        expert_models: as in `dare_linear`.
        density: as in `dare_linear`; 1 is `ties` without trimming.
        scaling: lambda.
        merge_func: as in `ties`.
        seed: as in `dare_linear`.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: as in `dare_linear`, or `merge_func` is unknown.
    """
    check_merge_func(merge_func)
    task_vectors = elect(_thinned(base_model, expert_models, density, scaling, seed))
    return add_task_vector(base_model, disjoint_merge(task_vectors, merge_func), scaling)


def _thinned(
    base_model: nn.Module, expert_models: Experts[Model], density: float, scaling: float, seed: int
) -> list[TaskVector]:
    experts: Mapping[str, nn.Module] = name_experts(expert_models)
    check_density(density)
    check_scaling(scaling)
    check_experts(base_model, experts)
    parameters = {name for name, _ in base_model.named_parameters()}
    return [
        {
            name: drop(tensor, density, seeded_generator(seed, task, name)) if name in parameters else tensor
            for name, tensor in tau.items()
        }
        for task, tau in compute_task_vectors(base_model, experts).items()
    ]
