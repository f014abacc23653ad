"""Fisher-weighted averaging: theta = sum_t F_t theta_t / sum_t F_t, entry by entry (arXiv 2111.09832, eq. 5).

F_t is the diagonal of expert t's Fisher information on its own task's inputs; no labels are needed (eq. 3):

    F[p] = E_x  sum_c  p(c | x) * (d log p(c | x) / d theta_p)^2
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wemoe.merging.rules import Sources, open_sources
from wemoe.merging.running import Model, base_module, expert_module
from wemoe.merging.squared_gradients import Uses, add_squared_gradients
from wemoe.merging.transforms import seeded_generator
from wemoe.predictions import (
    Batch,
    Predict,
    check_batches,
    count_samples,
    read_logits,
    split_samples,
    to_device,
)
from wemoe.task_vectors import exact, with_tensors
from wemoe.weights import ExpertSources

Estimator = Literal["exact", "published"]
Scores = Callable[[Tensor], Tensor]  # logits [S, C] to numbers [K] whose squared gradients are added up


def fisher(
    base_model: Model | str | os.PathLike[str],
    expert_models: ExpertSources,
    batches: Mapping[str, Iterable[Batch]],
    predict: Predict[Batch],
    *,
    estimator: Estimator = "exact",
    examples: int = 256,
    max_outcomes: int = 64,
    normalize: bool = True,
    floor: float = 1e-6,
    seed: int = 0,
) -> Model:
    """Average the experts, each entry weighted by how much that expert's predictions depend on it.

    Where no expert's predictions depend on an entry the average is the plain one, as it is for floating-point buffers.
    Memory does not grow with T: of the experts there is one at a time, beside three sums of the base's size.

    Args:
        base_model: the pre-trained model, a module or where a checkpoint is; it gives the class and all that is not
            floating point; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name, each a module, a state
            dict, or where a checkpoint or an adapter is; untouched. They run as models like the base, in its dtype and
            in evaluation mode.
        batches: by task, batches of the task's inputs, best in random order. The tensors of a batch share their first
            dimension, the samples. At most `examples` samples of each task are read, fewer where there are fewer.
        predict: `predict(model, batch, task)` gives logits [..., C], or (logits [..., C], valid bool [...]) where
            some positions do not count. Each position is a prediction of its own, given the inputs.
        estimator: `exact` takes every sample and class by itself. `published` is what published code computes: one
            gradient per batch, of sum over samples and classes of sqrt(p) log p, squared after it is summed, which
            leaves cross terms in and depends on the batch size.
        examples: number of samples per task.
        max_outcomes: up to so many positions times classes, `exact` goes through all classes of a sample; beyond, it
            samples a label for each position from the model's own prediction, which is right in expectation.
        normalize: divide each expert's Fisher information by its norm, so that no task outweighs another.
        floor: what is added to the Fisher information, as a share of its mean over all entries of all experts.
        seed: of sampled labels; torch's global random state is neither read nor moved.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources, the base cannot be run, `batches` is no
            mapping, or `predict` gives something else than logits.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, a task has no
            batches, its Fisher information is zero or not finite, there is a single class, an option is out of its
            range, or a file is damaged.
    """
    _check(estimator, max_outcomes, floor)
    with open_sources(base_model, expert_models) as sources:
        check_batches(batches, sources.experts, examples)
        base = base_module(base_model, sources)
        sums = _Sums(sources, normalize)
        for task in sources.experts:
            generator = seeded_generator(seed, task)
            scores = _published_scores if estimator == "published" else partial(_scores, max_outcomes, generator)
            groups = _groups(batches[task], task, examples, split=estimator == "exact")
            sums.add(task, diagonal_fisher(expert_module(base, sources, task), groups, predict, task, scores))
        return with_tensors(base, sums.means(floor))


def diagonal_fisher(
    model: nn.Module, groups: Iterable[tuple[Batch, int]], predict: Predict[Batch], task: str, scores: Scores
) -> dict[str, Tensor]:
    """Estimate the diagonal of a model's Fisher information.

    Args:
        model: in evaluation mode. All its parameters are made to require gradients; else it is untouched.
        groups: samples, or batches, with the number of samples in each.
        predict: as in `fisher`.
        task: name for `predict` and for messages.
        scores: which gradients of a group are squared and added.

    Returns:
        By parameter name, tied ones once, the mean over the samples in fp32 or better.
    """
    parameters = {n: p.requires_grad_() for n, p in model.named_parameters() if p.is_floating_point()}
    device = next(iter(parameters.values())).device
    total = {n: torch.zeros_like(exact(p.detach())) for n, p in parameters.items()}
    samples = 0
    with torch.enable_grad():
        for group, size in groups:
            with Uses(parameters.values()) as uses:
                logits, _ = read_logits(predict(model, to_device(group, device), task), task)
            if logits.shape[-1] < 2:
                raise ValueError(f"predict must give logits of two classes or more for task {task!r}; found one")
            add_squared_gradients(scores(logits), parameters, uses, total)
            samples += size
    if samples == 0:
        raise ValueError(f"batches[{task!r}] must hold at least one sample; found none")
    for squares in total.values():
        squares /= samples
    return total


def _groups(batches: Iterable[Batch], task: str, examples: int, split: bool) -> Iterator[tuple[Batch, int]]:
    if split:
        samples = chain.from_iterable(split_samples(batch, task) for batch in batches)
        yield from ((sample, 1) for sample in islice(samples, examples))
        return
    read = 0
    for batch in batches:
        size = count_samples(batch, task)
        yield batch, size
        read += size
        if read >= examples:
            return


def _scores(max_outcomes: int, generator: torch.Generator, logits: Tensor) -> Tensor:
    """Return C - 1 scores of each position, in place of its C classes, or one of labels sampled for all positions.

    The gradients of log p at sampled labels have mean zero and are independent between positions, so that the square of
    their sum is, in expectation, the sum of their squares.
    """
    log_p = logits.log_softmax(dim=-1)
    if log_p.numel() <= max_outcomes:
        return _reflected(log_p)
    labels = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)  # [S, 1]
    return log_p.gather(-1, labels).sum().view(1)


def _reflected(log_p: Tensor) -> Tensor:
    """Return scores [S * (C - 1)] whose squared gradients add up to those of the classes' sqrt(p) log p [S, C].

    A reflection of the C gradients keeps the sum of their squares. They are orthogonal to sqrt(p), since the p(c | x)
    add up to one: the reflection that takes sqrt(p) to an axis, here that of the largest p, leaves nothing on it.
    """
    root = log_p.detach().div(2).exp()
    axis = F.one_hot(root.argmax(dim=-1), root.shape[-1])
    normal = root + axis
    scores = root * log_p
    along = (normal * scores).sum(dim=-1, keepdim=True) / (1 + root.amax(dim=-1, keepdim=True))
    return (scores - along * normal)[axis == 0]


def _published_scores(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(dim=-1)
    return (log_p.detach().exp().sqrt() * log_p).sum().view(1)


class _Sums:
    """What the weighted mean needs of the experts: sums over them, of which the floor's share can be told at the end.

        theta_0 + (sum_t g_t F_t tau_t + a sum_t tau_t) / (sum_t g_t F_t + a T)

    Args:
        sources: of the task vectors tau_t.
        normalize: whether g_t is the inverse of the norm of F_t, or else 1.
    """

    def __init__(self, sources: Sources, normalize: bool) -> None:
        self._sources = sources
        self._normalize = normalize
        self._vectors: dict[str, Tensor] = {}  # sum_t tau_t
        self._weights: dict[str, Tensor] = {}  # sum_t g_t F_t
        self._weighted: dict[str, Tensor] = {}  # sum_t g_t F_t tau_t
        self._total = 0.0  # of all entries of all g_t F_t
        self._entries = 0

    def add(self, task: str, information: dict[str, Tensor]) -> None:
        """Take an expert and its Fisher information, by name; what is given is used up."""
        aliases = self._sources.matching.aliases
        named = {aliases.get(name, name): information.pop(name) for name in list(information)}
        merged = {name: named[name] for name in self._sources.names if name in named}
        norm = _norm(merged, task)
        for name in self._sources.names:
            tau = self._sources.task_vector(task, name)
            if name in merged:
                weight = merged.pop(name).div_(norm if self._normalize else 1.0)
                self._total += weight.sum(dtype=torch.float64).item()
                self._entries += weight.numel()
                _accumulate(self._weighted, name, weight * tau)
                _accumulate(self._weights, name, weight)
            _accumulate(self._vectors, name, tau)

    def means(self, floor: float) -> Iterator[tuple[str, Tensor]]:
        """Yield the merged tensors by name; the sums are used up."""
        added = floor * self._total / self._entries
        tasks = len(self._sources.experts)
        for name in self._sources.names:
            theta, mean = exact(self._sources.base_tensor(name)), self._vectors.pop(name) / tasks
            if name in self._weights:
                share = added * tasks
                mean = (self._weighted.pop(name) + share * mean) / (self._weights.pop(name) + share)
            yield name, theta + mean


def _accumulate(sums: dict[str, Tensor], name: str, term: Tensor) -> None:
    sums[name] = sums[name].add_(term) if name in sums else term


def _norm(information: Mapping[str, Tensor], task: str) -> float:
    norms = (torch.linalg.vector_norm(squares, dtype=torch.float64).item() for squares in information.values())
    norm = math.hypot(*norms)
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(
            f"the Fisher information of task {task!r} must be finite and not all zero; its norm is {norm}. Zero means "
            "that no prediction depends on a parameter, or that all are certain."
        )
    return norm


def _check(estimator: str, max_outcomes: int, floor: float) -> None:
    if estimator not in ("exact", "published"):
        raise ValueError(f"estimator must be 'exact' or 'published'; found {estimator!r}")
    if max_outcomes < 0:
        raise ValueError(f"max_outcomes must be at least 0; found {max_outcomes}")
    if not (math.isfinite(floor) and floor > 0):
        raise ValueError(f"floor must be positive and finite; found {floor}")
