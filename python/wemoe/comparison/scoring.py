"""What is seen of a row's models on test data: predicted classes, and of routed models both modes and their routing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wemoe.comparison.making import Made
from wemoe.evaluation import Predicted
from wemoe.evaluation.routing_modes import predict_in_modes, summarise_modes
from wemoe.inspection import RoutingSummary, record_routing, summarise_routing
from wemoe.routed_classes import RoutedModule
from wemoe.suites import Scores, Suite
from wemoe.task_config import Part


@dataclass(frozen=True)
class Scored:
    """What one pass over test data tells.

    Attributes:
        predicted: by task.
        routing: of a routed model; None for plain ones.
    """

    predicted: dict[str, Predicted]
    routing: RoutingSummary | None

    @property
    def accuracies(self) -> Scores:
        """By task, in [0, 1]."""
        return {task: each.accuracy for task, each in self.predicted.items()}

    @property
    def counts(self) -> dict[str, list[int]]:
        """By task, how often each class is predicted."""
        return {task: each.counts for task, each in self.predicted.items()}


def score_once(suite: Suite, made: Made, part: Part = "test") -> Scored:
    """Read each task's model once; the routing weights of a routed model are recorded on the way."""
    predicted: dict[str, Predicted] = {}
    routing: dict[str, Mapping[str, list[Tensor]]] = {}
    for task, model in made.models.items():
        with ExitStack() as recording:
            if isinstance(model, RoutedModule):
                routing[task] = recording.enter_context(record_routing(model))
            predicted |= suite.predictions(model, [task], part)
    routed = _routed_model(made)
    return Scored(predicted, None if routed is None else summarise_routing(routing, routed.routing_config.tasks))


def modes_of(suite: Suite, made: Made, scored: Scored) -> dict[str, Any] | None:
    """Score a routed model in both modes and both kinds of batch; None for plain models.

    Args:
        suite: the tasks.
        made: the models, routed per sample.
        scored: what they gave in batches of one task.
    """
    model = _routed_model(made)
    return None if model is None else summarise_modes(predict_in_modes(suite, model, per_sample=scored.predicted))


def _routed_model(made: Made) -> RoutedModule | None:
    """Return the routed model that serves all tasks; None where models are plain."""
    first = next(iter(made.models.values()))
    return first if isinstance(first, RoutedModule) else None
