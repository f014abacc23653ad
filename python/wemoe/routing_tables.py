"""Routing weights of samples of several tasks as tables, without the samples: what is written as JSON and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Nested = Mapping[str, Mapping[str, Mapping[str, float]]]  # by task of the data, layer and expert


@dataclass(frozen=True)
class RoutingTables:
    """Mean routing weights and first choices, by task of the data, layer and expert.

    Attributes:
        tasks: the tasks of the data.
        layers: the paths of the routed MLPs.
        experts: names of the T experts.
        samples: by task, how many were read.
        mean: [tasks, layers, T], mean routing weights over the samples.
        first_choice: [tasks, layers, T], share of the samples whose largest routing weight is each expert's.
    """

    tasks: tuple[str, ...]
    layers: tuple[str, ...]
    experts: tuple[str, ...]
    samples: Mapping[str, int]
    mean: Table
    first_choice: Table

    @staticmethod
    def from_dict(tables: Mapping[str, Any]) -> RoutingTables:
        """Read what `RoutingSummary.as_dict` gives, or JSON of it.

        Raises:
            ValueError: the tables are not of the same tasks, layers and experts, or have gaps.
        """
        means, choices = tables["mean"], tables["first_choice"]
        tasks, layers, experts = _names(means)
        wanted = [[list(experts)] * len(layers)] * len(tasks)
        for name, nested in (("mean", means), ("first_choice", choices)):
            found = [[list(values) for values in by_layer.values()] for by_layer in nested.values()]
            if _names(nested) != (tasks, layers, experts) or found != wanted:
                raise ValueError(
                    f"routing must hold the same layers and experts for every task; found others in {name!r}"
                )
        return RoutingTables(tasks, layers, experts, dict(tables["samples"]), _table(means), _table(choices))

    def some_layers(self, most: int = 6) -> RoutingTables:
        """The tables of all layers, or, of more than `most`, of the first, those at each quarter, and the last."""
        count = len(self.layers)
        if count <= most:
            return self
        kept = sorted({*range(0, count, -(-count // 4)), count - 1})
        layers = tuple(self.layers[index] for index in kept)
        mean, first_choice = self.mean[:, kept], self.first_choice[:, kept]
        return replace(self, layers=layers, mean=mean, first_choice=first_choice)

    @property
    def own_choice(self) -> Table:
        """Share of the samples whose largest routing weight is that of their task's own expert, [tasks, layers].

        Tasks that no expert is named after have NaN.
        """
        shares = np.full(self.first_choice.shape[:2], np.nan)
        for row, task in enumerate(self.tasks):
            if task in self.experts:
                shares[row] = self.first_choice[row, :, self.experts.index(task)]
        return shares


def layer_titles(paths: tuple[str, ...] | list[str]) -> list[str]:
    """The components that tell the paths of layers apart; "layer 1" and so on where that is a number from 0."""
    components = [path.split(".") for path in paths]
    if len(paths) == 1 or len({len(names) for names in components}) > 1:
        return list(paths)
    differing = [names for names in zip(*components, strict=True) if len(set(names)) > 1]
    titles = [".".join(names) for names in zip(*differing, strict=True)]
    return [f"layer {int(title) + 1}" if title.isdecimal() else title for title in titles]


def _names(nested: Nested) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of tasks, of the first task's layers, and of the first layer's experts."""
    by_layer = next(iter(nested.values()))
    return tuple(nested), tuple(by_layer), tuple(next(iter(by_layer.values())))


def _table(nested: Nested) -> Table:
    return np.array([[list(row.values()) for row in by_layer.values()] for by_layer in nested.values()])
