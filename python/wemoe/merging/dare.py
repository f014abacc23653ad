"""DARE: drop entries of the task vectors at random and rescale the others (arXiv 2311.03099, section 3.2).

    m_t ~ Bernoulli(p)      tau~_t = (1 - m_t) * tau_t / (1 - p)      p = 1 - density

The expectation of tau~_t is tau_t. The result is merged as it is (`dare_linear`, by task arithmetic) or after electing
signs (`dare_ties`, which does not trim by magnitude: dropping takes its place, as in mergekit and PEFT).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from wemoe.merging.options import PerExpert, densities_of, weights_of
from wemoe.merging.rules import Rule, Sources, merge
from wemoe.merging.signatures import Merged, keeps_kind
from wemoe.merging.task_arithmetic import TaskRows, linear_rule
from wemoe.merging.ties import MergeFunction, Scope, check_disjoint_merge, disjoint_rule
from wemoe.merging.transforms import drop, seeded_generator
from wemoe.task_vectors import check_scaling
from wemoe.weights import ExpertSources, Rows, Source


@keeps_kind
def dare_linear(
    base_model: Source,
    expert_models: ExpertSources,
    density: float | PerExpert = 0.5,
    scaling: float = 0.3,
    seed: int = 0,
    *,
    weights: PerExpert | None = None,
    normalize: bool = False,
    rescale: bool = True,
) -> Merged:
    """Add the scaled sum of randomly thinned task vectors to the base: theta_0 + scaling * sum_t w_t tau~_t.

    The seed, the task and the name of a parameter decide what is dropped of it, and nothing else does: torch's
    global random state is neither read nor moved. Floating-point buffers are never dropped.

    Args:
        base_model: the pre-trained model theta_0, as in `task_arithmetic`; untouched.
        expert_models: T models fine-tuned from it, as in `task_arithmetic`; untouched.
        density: probability that an entry stays, one number or one for each expert; 1 is task arithmetic.
        scaling: lambda, one number for all task vectors.
        seed: of what is dropped.
        weights: as in `task_arithmetic`.
        normalize: as in `task_arithmetic`.
        rescale: divide what stays by the density, which keeps the expectation.

    Returns:
        As in `task_arithmetic`.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `density` is not in
            (0, 1], `scaling` or one of `weights` is not finite, a sum is beyond the range of a float16 base, or a
            file is damaged.
    """
    make_rule = partial(
        dare_linear_rule,
        density=density,
        scaling=scaling,
        seed=seed,
        weights=weights,
        normalize=normalize,
        rescale=rescale,
    )
    return merge(base_model, expert_models, make_rule)


def dare_linear_rule(
    sources: Sources,
    *,
    density: float | PerExpert = 0.5,
    scaling: float = 0.3,
    seed: int = 0,
    weights: PerExpert | None = None,
    normalize: bool = False,
    rescale: bool = True,
) -> Rule:
    """Make the rule of `dare_linear`; its arguments are checked."""
    tasks = tuple(sources.experts)
    densities, shares = densities_of(density, tasks), weights_of(weights, tasks)
    check_scaling(scaling)
    start = _thinned(sources, densities, shares, seed, rescale)
    return linear_rule(sources, start, scaling, shares, normalize)


@keeps_kind
def dare_ties(
    base_model: Source,
    expert_models: ExpertSources,
    density: float | PerExpert = 0.5,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
    seed: int = 0,
    *,
    weights: PerExpert | None = None,
    normalize: bool | None = None,
    per: Scope = "model",
    rescale: bool = True,
) -> Merged:
    """Merge randomly thinned task vectors as TIES merges trimmed ones.

    Args:
        base_model: as in `dare_linear`.
        expert_models: as in `dare_linear`.
        density: as in `dare_linear`; 1 is `ties` without trimming.
        scaling: lambda.
        merge_func: as in `ties`.
        seed: as in `dare_linear`.
        weights: as in `ties`.
        normalize: as in `ties`.
        per: as in `ties`; only where a sum of zero elects a sign does it matter here.
        rescale: as in `dare_linear`.

    Returns:
        As in `task_arithmetic`.

    Raises:
        FileNotFoundError, ImportError, TypeError: as in `dare_linear`.
        ValueError: as in `dare_linear`, or `merge_func` or `per` is unknown.
    """
    make_rule = partial(
        dare_ties_rule,
        density=density,
        scaling=scaling,
        merge_func=merge_func,
        seed=seed,
        weights=weights,
        normalize=normalize,
        per=per,
        rescale=rescale,
    )
    return merge(base_model, expert_models, make_rule)


def dare_ties_rule(
    sources: Sources,
    *,
    density: float | PerExpert = 0.5,
    scaling: float = 1.0,
    merge_func: MergeFunction = "mean",
    seed: int = 0,
    weights: PerExpert | None = None,
    normalize: bool | None = None,
    per: Scope = "model",
    rescale: bool = True,
) -> Rule:
    """Make the rule of `dare_ties`; its arguments are checked."""
    tasks = tuple(sources.experts)
    densities, shares = densities_of(density, tasks), weights_of(weights, tasks)
    check_disjoint_merge(scaling, merge_func, per)
    start = _thinned(sources, densities, shares, seed, rescale)
    mean = merge_func == "mean" if normalize is None else normalize
    return disjoint_rule(sources, start, scaling, shares, mean, per)


def _thinned(
    sources: Sources, densities: dict[str, float], weights: dict[str, float], seed: int, rescale: bool
) -> Callable[[str], TaskRows]:
    """Return what gives, for a name, rows of randomly thinned task vectors times their weights, in order."""

    def start(name: str) -> TaskRows:
        dropped = [task for task, density in densities.items() if density < 1 and name in sources.parameters]
        generators = {task: seeded_generator(seed, task, name) for task in dropped}

        def thinned(task: str, rows: Rows) -> Tensor:
            tau = sources.task_vector(task, name, rows)
            if task in generators:
                tau = drop(tau, densities[task], generators[task], rescale)
            return tau * weights[task]

        return thinned

    return start
