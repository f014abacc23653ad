"""Looking into a routed model: the routing weights of its layers, and how many of its parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wemoe.layers import RoutedMLP
from wemoe.preference_layers import PreferenceLayer
from wemoe.router_sharing import routers_of
from wemoe.routing_tables import RoutingTables
from wemoe.sparse_layers import SparseRoutedLinear


@contextmanager
def record_routing(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the routing weights of every routed MLP, or of every module that a preference merges, call by call.

    Example:
        with wemoe.record_routing(model) as routing:
            model(**batch)
        routing["encoder.layer.0.output.dense"][0]  # [B, T]

    Args:
        model: a routed model, or any module that holds routed MLPs.

    Yields:
        By the path of each routed MLP, or of each linear map, norm and convolution of a PWEMoE, a list that gains one
        detached tensor [B, T] at each of its calls: the routing weights that each sample's weights are assembled with,
        equal rows where one set serves the whole batch. A model that writes with a cache makes them once, of the
        prompt.

    Raises:
        ValueError: the model holds no routed MLP.
    """
    routed = {name: module for name, module in model.named_modules() if isinstance(module, RoutedMLP | PreferenceLayer)}
    if not routed:
        raise ValueError(f"model must hold routed MLPs; found none in {type(model).__name__}")
    recorder = _Recorder({name: [] for name in routed})
    handles = [module.register_forward_pre_hook(recorder.entering(name)) for name, module in routed.items()]
    handles += [router.register_forward_hook(recorder.append) for router in routers_of(model)]
    try:
        yield recorder.records
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """Puts what a router gives under the name of the module that asked for it."""

    def __init__(self, records: dict[str, list[Tensor]]) -> None:
        self.records = records
        self._name = ""
        self._samples = 0
        self._batch_reduce = False

    def entering(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._name = name
            self._samples = inputs[0].shape[0 if module.batch_first else 1]
            self._batch_reduce = isinstance(module, RoutedMLP) and module.averages_batch

        return enter

    def append(self, _router: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        routing_weights = output.detach()  # [R, T]
        if self._batch_reduce:
            routing_weights = routing_weights.mean(dim=0, keepdim=True)
        self.records[self._name].append(routing_weights.expand(self._samples, -1))


@dataclass(frozen=True)
class RoutingSummary:
    """The routing weights of samples of several tasks, for tables and plots.

    Attributes:
        experts: names of the T experts, in the order of the routing weights.
        weights: `weights[task][layer]`, [samples, T]: by the task of the data and the path of the routed MLP.
    """

    experts: tuple[str, ...]
    weights: Mapping[str, Mapping[str, Tensor]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the data."""
        return tuple(self.weights)

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the routed MLPs."""
        return tuple(next(iter(self.weights.values())))

    def mean(self) -> Tensor:
        """Mean routing weights over the samples, [tasks, layers, T]."""
        return self._table(lambda weights: weights.mean(dim=0))

    def first_choice(self) -> Tensor:
        """Share of the samples whose largest routing weight is each expert's, [tasks, layers, T]."""
        return self._table(lambda weights: _one_hot_of_largest(weights).mean(dim=0))

    def tables(self) -> RoutingTables:
        """Both tables, without the samples."""
        samples = {task: len(next(iter(layers.values()))) for task, layers in self.weights.items()}
        mean, first_choice = (table.double().numpy() for table in (self.mean(), self.first_choice()))
        return RoutingTables(self.tasks, self.layers, self.experts, samples, mean, first_choice)

    def as_dict(self) -> dict[str, Any]:
        """What can be written as JSON: numbers of samples, and both tables as `table[task][layer][expert]`."""
        return {
            "samples": {task: len(next(iter(layers.values()))) for task, layers in self.weights.items()},
            "mean": self._named(self.mean()),
            "first_choice": self._named(self.first_choice()),
        }

    def _table(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack(
            [torch.stack([reduce(w.float()) for w in layers.values()]) for layers in self.weights.values()]
        )

    def _named(self, table: Tensor) -> dict[str, dict[str, dict[str, float]]]:
        return {
            task: {
                layer: dict(zip(self.experts, row, strict=True)) for layer, row in zip(self.layers, rows, strict=True)
            }
            for task, rows in zip(self.tasks, table.tolist(), strict=True)
        }


def summarise_routing(routing: Mapping[str, Mapping[str, Sequence[Tensor]]], experts: Sequence[str]) -> RoutingSummary:
    """Gather recorded routing weights of several tasks.

    Example:
        routing = {}
        for task, batch in batches.items():
            with wemoe.record_routing(model) as routing[task]:
                model(**batch)
        summary = wemoe.summarise_routing(routing, model.routing_config.tasks)
        summary.as_dict()["mean"]["movies"]["encoder.layer.0.output.dense"]["amazon"]

    Args:
        routing: by the task of the data, what `record_routing` yielded.
        experts: names of the T experts, in the order of the routing weights.

    Raises:
        ValueError: there is no task, a layer recorded no sample, tasks were recorded from different layers, or there
            are not T names.
    """
    if not routing:
        raise ValueError("routing must hold the records of at least one task; found none")
    first = next(iter(routing.values()))
    for task, layers in routing.items():
        if list(layers) != list(first):
            raise ValueError(f"routing must hold the same layers for every task; found others for {task!r}")
    weights = {
        task: {layer: _gather(calls, experts, f"routing[{task!r}][{layer!r}]") for layer, calls in layers.items()}
        for task, layers in routing.items()
    }
    return RoutingSummary(tuple(experts), weights)


def _gather(calls: Sequence[Tensor], experts: Sequence[str], name: str) -> Tensor:
    """The rows of all calls, [samples, T]."""
    if sum(map(len, calls)) == 0:
        raise ValueError(f"{name} must hold at least one sample; found none")
    weights = torch.cat(list(calls)).cpu()
    if weights.shape[-1] != len(experts):
        raise ValueError(f"experts must name each of the {weights.shape[-1]} experts of {name}; found {len(experts)}")
    return weights


def _one_hot_of_largest(weights: Tensor) -> Tensor:
    """[samples, T] with a one at the largest entry of each row, the first of equals."""
    return nn.functional.one_hot(weights.argmax(dim=-1), weights.shape[-1]).float()


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that a model is made of: tied ones once, and of sparse task vectors those that are kept."""
    sparse = [module for module in model.modules() if isinstance(module, SparseRoutedLinear)]
    total = sum(parameter.numel() for parameter in model.parameters())
    total -= sum(parameter.numel() for layer in sparse for parameter in layer.parameters())
    return total + sum(layer.size for layer in sparse)


def describe_trainable_parameters(model: nn.Module) -> str:
    """Numbers of trained and of all parameters in the words that users of PEFT know."""
    total = count_parameters(model)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = 100 * trainable / total
    return f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}"
