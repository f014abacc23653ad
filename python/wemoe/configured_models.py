"""The model that a configuration asks for, made of a suite's base, experts and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from wemoe.adaptation import Adaptation, adamerging, adapt
from wemoe.adaptation.loop import Expert
from wemoe.data.batches import Batch
from wemoe.expert_answers import ExpertAnswers
from wemoe.merge_config import MergeConfig
from wemoe.merging import RULES, fisher, regmean
from wemoe.merging.rules import Rule, Sources, merge
from wemoe.method_parameters import AdaMerging, Dare, Fisher, Linear, RegMean, Routed, Static, Ties
from wemoe.routed_classes import RoutedModule
from wemoe.suites import Suite
from wemoe.upcycling import upcycle

RULE_NAMES = {"linear": "average"}  # where ours has another name than mergekit's


def rule_of(config: MergeConfig) -> Callable[[Sources], Rule]:
    """Return what makes the rule of a static method, with mergekit's parameters as options of ours."""
    method = cast("str", config.merge_method)
    make_rule = RULES[RULE_NAMES.get(method, method)]
    return lambda sources: make_rule(sources, **_rule_options(config, tuple(sources.experts)))


def make_model(config: MergeConfig, suite: Suite, progress: bool = True) -> nn.Module:
    """Merge the models of a suite by the configuration's method; the models of the suite stay untouched.

    Args:
        config: with a method.
        suite: models and unlabeled data.
        progress: whether to show progress bars.

    Returns:
        A plain model of the base's class, or a routed one that was adapted.

    Raises:
        ValueError: a task has no data to adapt on, or as the method's function of `wemoe`.
    """
    parameters = config.parameters
    if isinstance(parameters, Static):
        return merge(suite.base, suite.experts, rule_of(config))
    if isinstance(parameters, Routed):
        model = upcycled(config, parameters, suite, progress)
        adapt_model(config, suite, model, progress)
        return model
    function, options = _with_data(config, progress)
    streams = suite.streams(options.pop("batch_size"), config.seed)
    return cast("nn.Module", function(suite.base, suite.experts, streams, suite.predict, **options))


def upcycled(config: MergeConfig, parameters: Routed, suite: Suite, progress: bool) -> RoutedModule:
    """Make the routed model of a suite; its routers' initial values are decided by the seed."""
    dtype = parameters.task_vector_dtype
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return upcycle(
            suite.base,
            suite.experts,
            method=cast("str", config.merge_method),
            init_lambda=parameters.init_lambda,
            router_hidden_layers=parameters.router_hidden_layers,
            share_router=parameters.share_router,
            prune_ratio=parameters.prune_ratio,
            position_encoding=parameters.position_encoding,
            batch_reduce=parameters.batch_reduce,
            task_vector_dtype=None if dtype is None else getattr(torch, dtype),
            progress=progress,
        )


def adapt_model(config: MergeConfig, suite: Suite, model: RoutedModule, progress: bool) -> Adaptation:
    """Train the routers of a model on a suite's unlabeled data, in place."""
    parameters = cast("Routed", config.parameters)
    options = _adaptation(config, parameters, progress)
    streams = suite.streams(options.pop("batch_size"), config.seed)
    return adapt(model, streams, suite.predict, experts=_teachers(parameters, suite), **options)


def _teachers(parameters: Routed, suite: Suite) -> Mapping[str, Expert[Batch]]:
    """What `match` makes the predictions equal to: the experts, or their answers where these are to be changed."""
    if parameters.class_shares is None and parameters.anchor is None:
        return suite.experts
    return ExpertAnswers(suite).by_task(**parameters.model_dump(include={"class_shares", "anchor", "init_lambda"}))


def _with_data(config: MergeConfig, progress: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
    parameters = config.parameters
    if isinstance(parameters, Fisher):
        return fisher, {**parameters.model_dump(), "seed": config.seed}
    if isinstance(parameters, RegMean):
        return regmean, parameters.model_dump()
    own = parameters.model_dump(include={"per", "density", "init_lambda"})
    return adamerging, own | _adaptation(config, cast("AdaMerging", parameters), progress)


def _adaptation(config: MergeConfig, parameters: AdaMerging | Routed, progress: bool) -> dict[str, Any]:
    chosen = parameters.model_dump(include={"objective", "learning_rate", "schedule", "batch_size"})
    return chosen | {"steps": config.adaptation_steps, "seed": config.seed, "progress": progress}


def _rule_options(config: MergeConfig, tasks: Sequence[str]) -> dict[str, Any]:
    parameters = cast("Static", config.parameters)
    weights = config.of_models("weight", tasks)
    options: dict[str, Any] = {
        "weights": {task: 1.0 if weight is None else weight for task, weight in weights.items()},
        "normalize": parameters.normalize,
    }
    if isinstance(parameters, Linear):
        return options
    options["scaling"] = parameters.lambda_
    if isinstance(parameters, Ties | Dare):
        options |= {"density": config.of_models("density", tasks), "rescale": parameters.rescale}
    if isinstance(parameters, Ties):
        options["per"] = parameters.trim
    if isinstance(parameters, Dare):
        options["seed"] = config.seed
        if config.merge_method == "dare_ties":
            options["per"] = "tensor"  # a sum of zero elects plus, as mergekit has it
    return options
