"""Fisher-weighted averaging: theta = sum_t F_t theta_t / sum_t F_t, entry by entry (arXiv 2111.09832, eq. 5).

F_t is the diagonal of expert t's Fisher information on its own task's inputs; no labels are needed (eq. 3):

    F[p] = E_x  sum_c  p(c | x) * (d log p(c | x) / d theta_p)^2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Literal

import torch
from torch import Tensor, nn

from wemoe.merging.average import weighted_sum
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
from wemoe.task_vectors import Experts, Model, check_experts, floating_tensors, name_experts, with_tensors

Estimator = Literal["exact", "published"]
Scores = Callable[[Tensor], Iterator[Tensor]]  # logits [S, C] to scalars whose squared gradients are added up


def fisher(
    base_model: Model,
    expert_models: Experts[Model],
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

    Args:
        base_model: the pre-trained model, which gives the class and all that is not floating point; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched. They run in
            evaluation mode.
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
        TypeError: `expert_models` is no sequence or mapping of modules, `batches` no mapping, or `predict` gives
            something else than logits.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, a task has no
            batches, its Fisher information is zero or not finite, there is a single class, or an option is out of
            its range.
    """
    experts = name_experts(expert_models)
    _check(estimator, max_outcomes, floor)
    check_batches(batches, experts, examples)
    check_experts(base_model, experts)
    information = {}
    for task, expert in experts.items():
        generator = seeded_generator(seed, task)
        scores = _published_scores if estimator == "published" else partial(_scores, max_outcomes, generator)
        groups = _groups(batches[task], task, examples, split=estimator == "exact")
        information[task] = diagonal_fisher(expert, groups, predict, task, scores)
    weights = _to_weights(information, normalize, floor)
    return with_tensors(base_model, _average(base_model, experts, weights))


def diagonal_fisher(
    model: nn.Module, groups: Iterable[tuple[Batch, int]], predict: Predict[Batch], task: str, scores: Scores
) -> dict[str, Tensor]:
    """Estimate the diagonal of a model's Fisher information.

    Args:
        model: untouched; a copy of it is differentiated, whatever its `requires_grad` flags say.
        groups: samples, or batches, with the number of samples in each.
        predict: as in `fisher`.
        task: name for `predict` and for messages.
        scores: which gradients of a group are squared and added.

    Returns:
        By parameter name, tied ones under each of theirs, the mean over the samples in fp32 or better.
    """
    model = copy.deepcopy(model).eval()
    parameters = {n: p for n, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    device = next(iter(parameters.values())).device
    total = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in parameters.items()}
    samples = 0
    with torch.enable_grad():
        for group, size in groups:
            logits, _ = read_logits(predict(model, to_device(group, device), task), task)
            if logits.shape[-1] < 2:
                raise ValueError(f"predict must give logits of two classes or more for task {task!r}; found one")
            for score in scores(logits):
                _add_squared_gradients(score, parameters, total)
            samples += size
    if samples == 0:
        raise ValueError(f"batches[{task!r}] must hold at least one sample; found none")
    return {name: squares.detach() / samples for name, squares in total.items()}


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


def _scores(max_outcomes: int, generator: torch.Generator, logits: Tensor) -> Iterator[Tensor]:
    """Yield sqrt(p) log p of every position and class, or else the summed log p of sampled labels.

    The gradients of log p at sampled labels have mean zero and are independent between positions, so that the square of
    their sum is, in expectation, the sum of their squares.
    """
    log_p = logits.log_softmax(dim=-1)
    p = log_p.detach().exp()
    if log_p.numel() <= max_outcomes:
        yield from (p.sqrt() * log_p).flatten()
    else:
        labels = torch.multinomial(p.cpu(), 1, generator=generator).to(log_p.device)  # [S, 1]
        yield log_p.gather(-1, labels).sum()


def _published_scores(logits: Tensor) -> Iterator[Tensor]:
    log_p = logits.log_softmax(dim=-1)
    yield (log_p.detach().exp().sqrt() * log_p).sum()


def _add_squared_gradients(score: Tensor, parameters: Mapping[str, Tensor], total: Mapping[str, Tensor]) -> None:
    gradients = torch.autograd.grad(score, list(parameters.values()), retain_graph=True, allow_unused=True)
    for squares, gradient in zip(total.values(), gradients, strict=True):
        if gradient is not None:
            squares += gradient.to(squares.dtype).square()


def _to_weights(
    information: Mapping[str, dict[str, Tensor]], normalize: bool, floor: float
) -> dict[str, dict[str, Tensor]]:
    """Turn the experts' Fisher information into what their parameters are weighted by; the floor is one for all."""
    scales, totals, entries = {}, [], 0
    for task, by_name in information.items():
        norm = _norm(by_name, task)
        scales[task] = 1 / norm if normalize else 1.0
        totals.append(scales[task] * sum(squares.sum(dtype=torch.float64).item() for squares in by_name.values()))
        entries += sum(squares.numel() for squares in by_name.values())
    added = floor * sum(totals) / entries
    return {
        task: {name: scales[task] * squares + added for name, squares in by_name.items()}
        for task, by_name in information.items()
    }


def _norm(information: Mapping[str, Tensor], task: str) -> float:
    norms = (torch.linalg.vector_norm(squares, dtype=torch.float64).item() for squares in information.values())
    norm = math.hypot(*norms)
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(
            f"the Fisher information of task {task!r} must be finite and not all zero; its norm is {norm}. Zero means "
            "that no prediction depends on a parameter, or that all are certain."
        )
    return norm


def _average(
    base_model: nn.Module, experts: Mapping[str, nn.Module], weights: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    states = {task: expert.state_dict() for task, expert in experts.items()}
    for name, theta in floating_tensors(base_model).items():
        tensors = [states[task][name] for task in experts]
        of_entries = [weights[task].get(name, torch.ones(())).to(theta.device) for task in experts]
        total = torch.stack(of_entries).sum(dim=0)
        yield name, weighted_sum(tensors, [weight / total for weight in of_entries], theta.device)


def _check(estimator: str, max_outcomes: int, floor: float) -> None:
    if estimator not in ("exact", "published"):
        raise ValueError(f"estimator must be 'exact' or 'published'; found {estimator!r}")
    if max_outcomes < 0:
        raise ValueError(f"max_outcomes must be at least 0; found {max_outcomes}")
    if not (math.isfinite(floor) and floor > 0):
        raise ValueError(f"floor must be positive and finite; found {floor}")
