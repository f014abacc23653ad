"""How the rows of a comparison make their models: each function takes what the rows share, and options of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wemoe.adaptation import Adaptation, adapt
from wemoe.adaptation.adamerging import fold_coefficients, with_coefficients
from wemoe.expert_answers import ExpertAnswers
from wemoe.suites import Suite
from wemoe.upcycling import upcycle


@dataclass(frozen=True)
class Workshop:
    """What all rows of a comparison share: the suite, the seed, and the experts' answers to its unlabeled part."""

    suite: Suite
    seed: int
    answers: ExpertAnswers


@dataclass(frozen=True)
class Made:
    """What a row has made.

    Attributes:
        models: by task, the model that serves it: one for all tasks, except for the experts themselves.
        trained: how many numbers the merge has trained.
        adaptation: what adaptation did, where there was one.
    """

    models: Mapping[str, nn.Module]
    trained: int = 0
    adaptation: Adaptation | None = None


def pretrained(shop: Workshop) -> Made:
    """Take the base as it is."""
    return _for_all(shop, shop.suite.base)


def individual(shop: Workshop) -> Made:
    """Take every expert for its own task."""
    return Made(shop.suite.experts)


def merged(method: Callable[..., nn.Module], shop: Workshop, **options: Any) -> Made:
    """Merge by a method that needs nothing but the weights."""
    return _for_all(shop, method(shop.suite.base, shop.suite.experts, **_seed(method, shop), **options))


def merged_on_inputs(method: Callable[..., nn.Module], shop: Workshop, *, batch_size: int, **options: Any) -> Made:
    """Merge by a method that runs the experts on inputs: those of the unlabeled part."""
    suite = shop.suite
    inputs = suite.inputs("unlabeled", batch_size, shop.seed)
    return _for_all(shop, method(suite.base, suite.experts, inputs, suite.predict, **_seed(method, shop), **options))


def _seed(method: Callable[..., nn.Module], shop: Workshop) -> dict[str, int]:
    """The seed, for a method that draws random numbers."""
    return {"seed": shop.seed} if "seed" in inspect.signature(method).parameters else {}


def adamerged(shop: Workshop, *, per: str, init_lambda: float, density: float | None = None, **adaptation: Any) -> Made:
    """Learn merging coefficients and fold them into a plain model."""
    suite = shop.suite
    model = with_coefficients(
        suite.base,
        suite.experts,
        per=per,  # type: ignore[arg-type]  # checked there
        density=density,
        init_lambda=init_lambda,
    )
    done = _adapt(shop, model, init_lambda=init_lambda, **adaptation)
    return _for_all(shop, fold_coefficients(suite.base, model), _trained(model), done)


def routed(
    shop: Workshop,
    *,
    init_lambda: float,
    router_hidden_layers: int,
    method: str = "wemoe",
    prune_ratio: float | None = None,
    **adaptation: Any,
) -> Made:
    """Upcycle to a WEMoE or an E-WEMoE with per-sample routing and adapt its routers."""
    with torch.random.fork_rng():
        torch.manual_seed(shop.seed)  # of the routers' initial values
        model = upcycle(
            shop.suite.base,
            shop.suite.experts,
            method=method,
            init_lambda=init_lambda,
            router_hidden_layers=router_hidden_layers,
            prune_ratio=prune_ratio,
            progress=False,
        )
    done = _adapt(shop, model, init_lambda=init_lambda, **adaptation)
    return _for_all(shop, model, _trained(model), done)


def _adapt(
    shop: Workshop,
    model: nn.Module,
    *,
    init_lambda: float,
    batch_size: int,
    objective: str,
    class_shares: float | None = None,
    anchor: float | None = None,
    **how: Any,
) -> Adaptation:
    experts = None
    if objective == "match":
        experts = shop.answers.by_task(class_shares=class_shares, anchor=anchor, init_lambda=init_lambda)
    return adapt(
        model,
        shop.suite.streams(batch_size, shop.seed),
        shop.suite.predict,
        objective=objective,  # type: ignore[arg-type]  # checked there
        experts=experts,
        seed=shop.seed,
        **how,
    )


def _trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _for_all(shop: Workshop, model: nn.Module, trained: int = 0, adaptation: Adaptation | None = None) -> Made:
    return Made(dict.fromkeys(shop.suite.tasks, model), trained, adaptation)
