"""Comparing ways to merge: one bench of models and tasks, and the score of every method on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.adaptation import Adaptation, adapt
from wemoe.data.batches import Batch, ShuffledBatches, TokenizedTask
from wemoe.evaluation import evaluate
from wemoe.experts import all_features, mean_features
from wemoe.inspection import RoutingSummary, record_routing, summarise_routing
from wemoe.merging import average, task_arithmetic
from wemoe.routed_classes import RoutedModule
from wemoe.stopwatch import Stopwatch
from wemoe.upcycling import upcycle

Scores = dict[str, float]  # accuracy by task
Answers = Mapping[str, Callable[[Batch], Tensor]]  # by task, a function from a batch to its expert's logits


@dataclass(frozen=True)
class Bench:
    """The models at hand, the tasks, and the frozen heads that read any of the models."""

    base: PreTrainedModel
    experts: dict[str, PreTrainedModel]
    heads: dict[str, nn.Linear]
    tasks: dict[str, TokenizedTask]

    def predict(self, model: nn.Module, batch: Batch, task: str) -> Tensor:
        """Logits [B, C] of a task's head on a model's mean features."""
        logits: Tensor = self.heads[task](mean_features(model, batch))
        return logits

    def score(self, model: nn.Module, tasks: list[str] | None = None, part: str = "test") -> Scores:
        """Accuracy of a model on one part of the tasks, all of them by default."""
        parts = {name: getattr(self.tasks[name], part) for name in tasks or self.tasks}
        return evaluate(model, {name: labelled.sorted_batches(64) for name, labelled in parts.items()}, self.predict)


@dataclass(frozen=True)
class Routing:
    """How one routed model is made and adapted."""

    router_hidden_layers: int
    objective: Literal["match", "entropy", "infomax"]
    learning_rate: float
    steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: int = 8
    init_lambda: float = 0.3


@dataclass(frozen=True)
class Adapted:
    """A routed model after adaptation, its test scores and its routing weights on the test texts."""

    model: RoutedModule
    adaptation: Adaptation
    scores: Scores
    routing: RoutingSummary


def score_static(
    bench: Bench, scalings: Iterable[float], watch: Stopwatch
) -> tuple[dict[str, Scores], dict[str, float]]:
    """Score all that is not routed: the base, each expert on its own task, and the static merges.

    Args:
        bench: models and tasks.
        scalings: of task arithmetic, which takes the one that is best on the validation texts.
        watch: tells of each method.

    Returns:
        Test scores by method, and task arithmetic's average validation accuracy by scaling.
    """
    scores: dict[str, Scores] = {}
    with watch.stage("pretrained"):
        scores["pretrained"] = bench.score(bench.base)
    with watch.stage("individual"):
        scores["individual"] = {task: bench.score(expert, [task])[task] for task, expert in bench.experts.items()}
    with watch.stage("average"):
        scores["average"] = bench.score(average(bench.base, bench.experts))
    with watch.stage("task_arithmetic"):
        sweep = {scaling: _validate(bench, scaling) for scaling in scalings}
        best = max(sweep, key=sweep.__getitem__)
        scores["task_arithmetic"] = bench.score(task_arithmetic(bench.base, bench.experts, best))
    return scores, {str(scaling): accuracy for scaling, accuracy in sweep.items()}


def _validate(bench: Bench, scaling: float) -> float:
    scores = bench.score(task_arithmetic(bench.base, bench.experts, scaling), part="validation")
    return sum(scores.values()) / len(scores)


def score_routed(bench: Bench, routings: Mapping[str, Routing], seed: int, watch: Stopwatch) -> dict[str, Adapted]:
    """Adapt and score one routed model for each entry of `routings`, with per-sample routing throughout.

    Args:
        bench: models and tasks.
        routings: by method, how the model is made.
        seed: of the routers' initial values and of the order of the unlabeled texts.
        watch: tells of each method.
    """
    with watch.stage("experts' answers to unlabeled texts"):
        answers = {task: _answers(bench, task) for task in bench.tasks}
    adapted = {}
    for method, routing in routings.items():
        with watch.stage(method):
            adapted[method] = _adapt(bench, routing, answers, seed)
    return adapted


def _answers(bench: Bench, task: str) -> Callable[[Batch], Tensor]:
    """A function from a batch to the expert's logits, computed once for all of its task's unlabeled texts."""
    logits = bench.heads[task](all_features(bench.experts[task], bench.tasks[task].unlabeled))
    return lambda batch: logits[batch.rows]


def _adapt(bench: Bench, routing: Routing, answers: Answers, seed: int) -> Adapted:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the routers' initial values
        model = upcycle(
            bench.base,
            bench.experts,
            init_lambda=routing.init_lambda,
            router_hidden_layers=routing.router_hidden_layers,
        )
    adaptation = adapt(
        model,
        {name: ShuffledBatches(task.unlabeled, routing.batch_size, seed) for name, task in bench.tasks.items()},
        bench.predict,
        objective=routing.objective,
        experts=answers,
        steps=routing.steps,
        learning_rate=routing.learning_rate,
        schedule=routing.schedule,
        seed=seed,
    )
    scores: Scores = {}
    records: dict[str, dict[str, list[Tensor]]] = {}
    for task in bench.tasks:
        with record_routing(model) as records[task]:
            scores |= bench.score(model, [task])
    return Adapted(model, adaptation, scores, summarise_routing(records, list(bench.experts)))
