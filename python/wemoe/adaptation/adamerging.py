"""AdaMerging: task arithmetic with learned coefficients (arXiv 2310.02575, sections 3.2 and 3.3).

    task-wise      theta   = theta_0   + sum_t lambda_t   * tau_t
    layer-wise     theta^l = theta_0^l + sum_t lambda_t^l * tau_t^l       "layer" l: one parameter tensor

AdaMerging++ takes the task vectors of TIES, trimmed and without the entries that disagree with the elected sign, each
for itself. The coefficients are trained on unlabeled data and folded into plain weights afterwards.

In training every parameter is a function of its coefficients (`torch.nn.utils.parametrize`): whatever reads a model,
reads merged weights, so that `wemoe.adapt` and `predict` see a model like any other, whose coefficients alone require
gradients.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wemoe.adaptation.loop import adapt
from wemoe.merging.ties import elect, sum_of, trimmed_task_vectors
from wemoe.merging.transforms import check_density
from wemoe.predictions import Batch, Predict
from wemoe.task_vectors import (
    Experts,
    Model,
    TaskVector,
    check_experts,
    compute_task_vectors,
    exact_tensor,
    floating_tensors,
    name_experts,
    with_tensors,
)
from wemoe_ext import merge_weights


def adamerging(
    base_model: Model,
    expert_models: Experts[Model],
    streams: Mapping[str, Iterable[Batch]],
    predict: Predict[Batch],
    *,
    per: Literal["layer", "task"] = "layer",
    density: float | None = None,
    init_lambda: float = 0.3,
    objective: Literal["match", "entropy", "infomax"] = "entropy",
    steps: int = 1000,
    learning_rate: float = 1e-3,
    schedule: Literal["constant", "cosine"] = "constant",
    seed: int = 0,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
) -> Model:
    """Learn merging coefficients on unlabeled data and fold them into a plain model.

    `wemoe.adapt` is the loop: one batch of each task at a step, back-propagated at once, so that memory does not grow
    with the number of tasks. Coefficients are not clamped, since a clamped one gets no gradient. Floating-point buffers
    are merged by task arithmetic with `init_lambda`.

    Args:
        base_model: the pre-trained model theta_0; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.
        streams: by task, unlabeled batches, as in `adapt`.
        predict: `predict(model, batch, task)` gives logits [..., C], as in `adapt`.
        per: what shares a coefficient of a task: `layer`, each parameter tensor for itself, or `task`, the whole model.
        density: of TIES' trimming, for AdaMerging++ (0.2 in the paper); None for task vectors as they are.
        init_lambda: what every coefficient starts at.
        objective: as in `adapt`; `entropy` is the published one, `match` needs no more than the experts.
        steps: as in `adapt`.
        learning_rate: as in `adapt`; 1e-3 is the published one.
        schedule: as in `adapt`.
        seed: as in `adapt`.
        progress: as in `adapt`.
        log: as in `adapt`.
        checkpoint: as in `adapt`; it holds the coefficients.
        checkpoint_every: as in `adapt`.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        OSError, TypeError, ValueError: as in `adapt`, or as in `with_coefficients`.
    """
    experts = name_experts(expert_models)
    model = with_coefficients(base_model, experts, per=per, density=density, init_lambda=init_lambda)
    adapt(
        model,
        streams,
        predict,
        objective=objective,
        experts=experts,
        steps=steps,
        learning_rate=learning_rate,
        schedule=schedule,
        seed=seed,
        progress=progress,
        log=log,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    return fold_coefficients(base_model, model)


def with_coefficients(
    base_model: Model,
    expert_models: Experts[Model],
    *,
    per: Literal["layer", "task"] = "layer",
    density: float | None = None,
    init_lambda: float = 0.3,
) -> Model:
    """Make a model whose parameters are merged, whenever they are read, by coefficients that can be trained.

    Args:
        base_model: as in `adamerging`.
        expert_models: as in `adamerging`.
        per: as in `adamerging`.
        density: as in `adamerging`.
        init_lambda: as in `adamerging`.

    Returns:
        A copy of the base of which only the coefficients, fp32 [T] for each tensor or for all, require gradients.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `per` is unknown,
            `density` is not in (0, 1], or `init_lambda` is not finite.
    """
    experts = name_experts(expert_models)
    _check(per, density, init_lambda)
    check_experts(base_model, experts)
    model = copy.deepcopy(base_model).requires_grad_(False)
    task_vectors = _task_vectors(base_model, experts, density)
    merges = _merges(model, task_vectors, per, init_lambda)
    for module in list(model.modules()):
        for attribute, parameter in list(module.named_parameters(recurse=False)):
            if parameter in merges:
                parametrize.register_parametrization(module, attribute, merges[parameter])
    for name, buffer in model.named_buffers():
        if name in task_vectors[0]:
            buffer.copy_(exact_tensor(buffer, buffer.device) + init_lambda * sum_of(task_vectors, name))
    return model


def coefficients(model: nn.Module) -> dict[str, Tensor]:
    """Return the coefficients [T] of every parameter of a model of `with_coefficients`, by the parameter's name."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], _Merge):
            found[path.replace("parametrizations.", "", 1)] = module[0].coefficients.detach().clone()
    return found


def fold_coefficients(base_model: Model, model: nn.Module) -> Model:
    """Return a plain model like the base with the tensors that a model of `with_coefficients` has at the moment."""

    def merged(name: str) -> Tensor:
        path, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(model.get_submodule(path), attribute)
        return tensor

    with torch.no_grad():
        return with_tensors(base_model, ((name, merged(name)) for name in floating_tensors(base_model)))


class _Merge(nn.Module):
    """theta_0 [...] to theta_0 + sum_t coefficients[t] * task_vectors[t]; task vectors [T, ...], coefficients [T]."""

    def __init__(self, task_vectors: Tensor, coefficients: nn.Parameter) -> None:
        super().__init__()
        self.task_vectors = nn.Parameter(task_vectors, requires_grad=False)
        self.coefficients = coefficients

    def forward(self, base: Tensor) -> Tensor:
        return merge_weights(base, self.task_vectors, self.coefficients.unsqueeze(0))[0]


def _merges(model: nn.Module, task_vectors: list[TaskVector], per: str, init_lambda: float) -> dict[Tensor, _Merge]:
    """Make, for every floating-point parameter, what merges it; its task vectors leave the list that is given."""
    tasks, device = len(task_vectors), next(model.parameters()).device
    shared = _coefficients(tasks, init_lambda, device) if per == "task" else None
    merges: dict[Tensor, _Merge] = {}
    for name, parameter in model.named_parameters():
        if name in task_vectors[0]:
            stacked = torch.stack([tau.pop(name) for tau in task_vectors]).to(parameter.dtype)
            own = _coefficients(tasks, init_lambda, parameter.device) if shared is None else shared
            merges[parameter] = _Merge(stacked, own)
    return merges


def _coefficients(tasks: int, init_lambda: float, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.full((tasks,), init_lambda, dtype=torch.float32, device=device))


def _task_vectors(base_model: nn.Module, experts: Mapping[str, nn.Module], density: float | None) -> list[TaskVector]:
    if density is None:
        return list(compute_task_vectors(base_model, experts).values())
    return elect(list(trimmed_task_vectors(base_model, experts, density).values()))


def _check(per: str, density: float | None, init_lambda: float) -> None:
    if per not in ("layer", "task"):
        raise ValueError(f"per must be 'layer' or 'task'; found {per!r}")
    if density is not None:
        check_density(density)
    if not math.isfinite(init_lambda):
        raise ValueError(f"init_lambda must be a finite number; found {init_lambda}")
