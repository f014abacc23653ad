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
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wemoe.adaptation.loop import AdaptOptions, adapt
from wemoe.adaptation.objectives import OBJECTIVES
from wemoe.merging.rules import Sources, open_sources
from wemoe.merging.running import Model, base_module, expert_module
from wemoe.merging.ties import elected_task_vectors
from wemoe.merging.transforms import check_density
from wemoe.predictions import Batch, Predict
from wemoe.task_vectors import exact, with_tensors
from wemoe.weights import ExpertSources, module_weights
from wemoe_ext import merge_weights

TaskVectors = Callable[[str], list[Tensor]]  # by the name of a tensor, those of all experts

PUBLISHED: AdaptOptions = {"objective": "entropy", "learning_rate": 1e-3}


def adamerging(
    base_model: Model | str | os.PathLike[str],
    expert_models: ExpertSources,
    streams: Mapping[str, Iterable[Batch]],
    predict: Predict[Batch],
    *,
    per: Literal["layer", "task"] = "layer",
    density: float | None = None,
    init_lambda: float = 0.3,
    **adapt_options: Unpack[AdaptOptions],
) -> Model:
    """Learn merging coefficients on unlabeled data and fold them into a plain model.

    `wemoe.adapt` is the loop: one batch of each task at a step, back-propagated at once, so that memory does not grow
    with the number of tasks that are trained on; what grows with T are the task vectors. Coefficients are not clamped,
    since a clamped one gets no gradient. Floating-point buffers are merged by task arithmetic with `init_lambda`.

    Args:
        base_model: the pre-trained model theta_0, a module or where a checkpoint is; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name, each a module, a state
            dict, or where a checkpoint or an adapter is; untouched.
        streams: by task, unlabeled batches, as in `adapt`.
        predict: `predict(model, batch, task)` gives logits [..., C], as in `adapt`.
        per: what shares a coefficient of a task: `layer`, each parameter tensor for itself, or `task`, the whole model.
        density: of TIES' trimming, for AdaMerging++ (0.2 in the paper); None for task vectors as they are.
        init_lambda: what every coefficient starts at.
        **adapt_options: `objective`, `steps`, `learning_rate`, `schedule`, `seed`, `progress`, `log`, `checkpoint` (of
            the coefficients) and `checkpoint_every` of `adapt`. The objective is `entropy`, the published one, unless
            another is given; `match` reads experts while it trains, so that all of them stay in memory. The learning
            rate is 1e-3 unless another is given.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        OSError, TypeError, ValueError: as in `adapt`, or as in `with_coefficients`.
    """
    if unknown := adapt_options.keys() - AdaptOptions.__annotations__.keys():
        raise TypeError(
            f"adamerging takes the options of adapt, {list(AdaptOptions.__annotations__)}; found {sorted(unknown)}"
        )
    _check(per, density, init_lambda)
    options = PUBLISHED | adapt_options
    objective = OBJECTIVES.get(options["objective"])
    with open_sources(base_model, expert_models) as sources:
        base = base_module(base_model, sources)
        model = _with_coefficients(base, sources, per, density, init_lambda)
        read = sources.experts if objective is not None and objective.needs_experts else ()
        experts = {task: expert_module(base, sources, task) for task in read}
    adapt(model, streams, predict, experts=experts, **options)
    return fold_coefficients(base, model)


def with_coefficients(
    base_model: Model | str | os.PathLike[str],
    expert_models: ExpertSources,
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
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources, or the base cannot be run.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, `per` is unknown,
            `density` is not in (0, 1], `init_lambda` is not finite, or a file is damaged.
    """
    _check(per, density, init_lambda)
    with open_sources(base_model, expert_models) as sources:
        return _with_coefficients(base_module(base_model, sources), sources, per, density, init_lambda)


def _with_coefficients(base: Model, sources: Sources, per: str, density: float | None, init_lambda: float) -> Model:
    task_vectors = _task_vectors(sources, density)
    model = copy.deepcopy(base).requires_grad_(False)
    merges = _merges(model, sources, task_vectors, per, init_lambda)
    for module in list(model.modules()):
        for attribute, parameter in list(module.named_parameters(recurse=False)):
            if parameter in merges:
                parametrize.register_parametrization(module, attribute, merges[parameter])
    buffers = dict(model.named_buffers())
    for name in set(sources.names) - sources.parameters:
        total = torch.stack(task_vectors(name)).sum(dim=0)
        buffers[name].copy_(exact(buffers[name]) + init_lambda * total)
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
        held = module_weights(base_model, "base_model").contents.items()
        return with_tensors(base_model, ((name, merged(name)) for name, own in held if own.is_floating_point()))


class _Merge(nn.Module):
    """theta_0 [...] to theta_0 + sum_t coefficients[t] * task_vectors[t]; task vectors [T, ...], coefficients [T]."""

    def __init__(self, task_vectors: Tensor, coefficients: nn.Parameter) -> None:
        super().__init__()
        self.task_vectors = nn.Parameter(task_vectors, requires_grad=False)
        self.coefficients = coefficients

    def forward(self, base: Tensor) -> Tensor:
        return merge_weights(base, self.task_vectors, self.coefficients.unsqueeze(0))[0]


def _merges(
    model: nn.Module, sources: Sources, task_vectors: TaskVectors, per: str, init_lambda: float
) -> dict[Tensor, _Merge]:
    """Make, for every parameter that is merged, what merges it."""
    tasks, device = len(sources.experts), next(model.parameters()).device
    shared = _coefficients(tasks, init_lambda, device) if per == "task" else None
    merges: dict[Tensor, _Merge] = {}
    for name, parameter in model.named_parameters():
        name = sources.matching.aliases.get(name, name)
        if name in sources.names:
            stacked = torch.stack(task_vectors(name)).to(parameter.dtype)
            own = _coefficients(tasks, init_lambda, parameter.device) if shared is None else shared
            merges[parameter] = _Merge(stacked, own)
    return merges


def _coefficients(tasks: int, init_lambda: float, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.full((tasks,), init_lambda, dtype=torch.float32, device=device))


def _task_vectors(sources: Sources, density: float | None) -> TaskVectors:
    """Return what gives, for a name, the task vectors of all experts: as they are, or as TIES has them."""
    if density is None:
        return lambda name: [sources.task_vector(task, name) for task in sources.experts]
    return elected_task_vectors(sources, density)


def _check(per: str, density: float | None, init_lambda: float) -> None:
    if per not in ("layer", "task"):
        raise ValueError(f"per must be 'layer' or 'task'; found {per!r}")
    if density is not None:
        check_density(density)
    if not math.isfinite(init_lambda):
        raise ValueError(f"init_lambda must be a finite number; found {init_lambda}")
