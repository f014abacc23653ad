"""The routed layer in place of one MLP, under the name and signature that existing code knows.

State dicts of FusionBench's class of the same name are loaded too. There one tensor is one parameter of a module,
`gate.*`, `base_model.*` and `task_vectors.{t}.*`; here the task vectors of a parameter are one tensor.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wemoe.layers import RoutedMLP
from wemoe.merging.rules import open_sources
from wemoe.merging.running import base_module, expert_mlp
from wemoe.mlp_search import find_mlp_slots
from wemoe.mlps import linear_sizes, parts_at
from wemoe.routers import Router, build_router
from wemoe.weights import ExpertSources

PUBLISHED = ("gate.", "base_model.", "task_vectors.")  # what the names in FusionBench's state dicts start with


class WeightEnsemblingMoE(nn.Module):
    """Weight-ensembling mixture of experts in place of one MLP (WEMoE, arXiv 2402.00433).

    The signature and the numbers are those of the class of this name in FusionBench, so that existing code is
    accelerated by changing its import. Unlike there, the arguments are left as they are, and a parameter of the base
    that does not require gradients has a task vector all the same.

    `load_state_dict` takes state dicts of both classes, alone or as part of a model's. FusionBench deletes the task
    vectors of parameters that were frozen: where no task has one for a parameter, they are zero.

    Attributes:
        mlp: the routed MLP.

    Args:
        hidden_size: D, the width of the hidden states that the MLP receives.
        base_model: the pre-trained MLP: the MLP of a CLIP, GPT-2 or Llama block, or any module that applies a linear
            map, an activation and a second linear map, with a gate or without.
        expert_models: T fine-tuned MLPs of the same architecture, modules or state dicts, a sequence or a mapping from
            task name.
        init_lambda: the routing weight that every task starts near.
        batch_first: whether hidden states are [B, N, D]; otherwise [N, B, D].
        router_hidden_layers: depth of the router: 0 (constant), 1 or 2.
        batch_reduce: average the routing weights over the batch, one set of weights for all samples.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules or state dicts.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, the base is no MLP,
            its input width is not `hidden_size`, or the router depth is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        base_model: nn.Module,
        expert_models: ExpertSources,
        init_lambda: float = 0.2,
        batch_first: bool = False,
        router_hidden_layers: int = 2,
        batch_reduce: bool = False,
    ) -> None:
        super().__init__()
        with open_sources(base_model, expert_models) as sources:
            slots = find_mlp_slots(base_module(base_model, sources))
            tuned = [expert_mlp(base_model, sources, task, "", slots) for task in sources.experts]
        base = parts_at(base_model, slots)
        width, _ = linear_sizes(base.up)
        if width != hidden_size:
            raise ValueError(f"hidden_size must be the input width of base_model, {width}; found {hidden_size}")
        router = build_router(hidden_size, len(tuned), init_lambda, router_hidden_layers).to(base.up.weight.device)
        self.mlp = RoutedMLP.from_parts(base, tuned, router, batch_reduce, batch_first)
        paths = {"gate": slots.gate, "up": slots.up, "down": slots.down}
        self._paths = {part: path for part, path in paths.items() if path is not None}
        self._shell = (_without_weights(base_model),)  # in a tuple, so that it is no child

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map hidden states [B, N, D], or [N, B, D] without `batch_first`, to the same shape."""
        return self.mlp(hidden_states)  # type: ignore[no-any-return]

    @property
    def hidden_size(self) -> int:
        """D, the width of the hidden states."""
        return self.mlp.up.in_features

    @property
    def num_experts(self) -> int:
        """T, the number of experts."""
        return self.mlp.up.num_tasks

    @property
    def batch_first(self) -> bool:
        """Whether hidden states are [B, N, D]; can be set."""
        return self.mlp.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        self.mlp.batch_first = value

    @property
    def batch_reduce(self) -> bool:
        """Whether routing weights are averaged over the batch; can be set."""
        return self.mlp.batch_reduce

    @batch_reduce.setter
    def batch_reduce(self, value: bool) -> None:
        self.mlp.batch_reduce = value

    @property
    def gate(self) -> Router:
        """The router, whose parameters have the names and the order that they have in FusionBench."""
        return self.mlp.router

    @property
    def base_model(self) -> nn.Module:
        """The pre-trained MLP, of the class that was given: a copy, frozen; changing it does not change the layer."""
        return self._fill_shell("base_model.")

    @property
    def task_vectors(self) -> nn.ModuleList:
        """The task vectors as T modules like the base: copies, frozen; changing them does not change the layer."""
        return nn.ModuleList(self._fill_shell(f"task_vectors.{t}.") for t in range(self.num_experts))

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would take a module in under the name of a property, where nothing reads it
        if name in ("gate", "base_model", "task_vectors", "hidden_size", "num_experts"):
            raise AttributeError(f"{name} of a {type(self).__name__} can be read and not set")
        super().__setattr__(name, value)

    def _fill_shell(self, prefix: str) -> nn.Module:
        own, module = self.state_dict(), copy.deepcopy(self._shell[0])
        for place in self._places():
            for name, tensor in zip(place.theirs, own[place.ours] if place.stacked else [own[place.ours]], strict=True):
                if name.startswith(prefix):
                    path, _, parameter = name.removeprefix(prefix).rpartition(".")
                    weight = nn.Parameter(place.turn(tensor).clone(), requires_grad=False)
                    setattr(module.get_submodule(path), parameter, weight)
        return module

    def _places(self) -> list[_Place]:
        """Where FusionBench keeps what we keep, in the order of our state dict."""
        places = [_Place(f"mlp.router.{name}", (f"gate.{name}",)) for name, _ in self.gate.named_parameters()]
        for part, path in self._paths.items():
            turned = isinstance(self._shell[0].get_submodule(path), Conv1D)
            for parameter, stack in (("weight", "task_vectors"), ("bias", "task_biases")):
                if getattr(self.mlp.get_submodule(part), parameter) is not None:
                    theirs = tuple(f"task_vectors.{t}.{path}.{parameter}" for t in range(self.num_experts))
                    turns = turned and parameter == "weight"
                    places.append(_Place(f"mlp.{part}.{parameter}", (f"base_model.{path}.{parameter}",), turned=turns))
                    places.append(_Place(f"mlp.{part}.{stack}", theirs, stacked=True, turned=turns))
        return places

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if any(name.startswith(tuple(f"{prefix}{start}" for start in PUBLISHED)) for name in state_dict):
            theirs = _Published(state_dict, prefix, missing_keys, error_msgs)
            own = self.state_dict()
            for place in self._places():
                state_dict[f"{prefix}{place.ours}"] = theirs.translate(place, own[place.ours])
            unexpected_keys += theirs.left()
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


@dataclass(frozen=True)
class _Place:
    """Where FusionBench keeps one of our tensors: under one name, or stacked ones under a name for each task."""

    ours: str
    theirs: tuple[str, ...]
    stacked: bool = False
    turned: bool = False

    def turn(self, weight: Tensor) -> Tensor:
        """From our orientation to theirs and back: GPT-2's Conv1D keeps its weight as [D, F]."""
        return weight.T if self.turned else weight


class _Published:
    """The tensors of one layer in a state dict of FusionBench, taken out of it one by one."""

    def __init__(self, state_dict: dict[str, Tensor], prefix: str, missing: list[str], errors: list[str]) -> None:
        self._tensors = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
        self._prefix, self._missing, self._errors = prefix, missing, errors

    def translate(self, place: _Place, current: Tensor) -> Tensor:
        """Take what is at a place as the tensor that we keep."""
        if not place.stacked:
            return place.turn(self._take(place.theirs[0], place.turn(current)))
        if not any(f"{self._prefix}{name}" in self._tensors for name in place.theirs):
            return torch.zeros_like(current)
        stack = zip(place.theirs, current, strict=True)
        return torch.stack([place.turn(self._take(name, place.turn(task))) for name, task in stack])

    def _take(self, name: str, current: Tensor) -> Tensor:
        """Take a tensor out; what is missing or has another shape is noted and keeps its current value."""
        if f"{self._prefix}{name}" not in self._tensors:
            self._missing.append(f"{self._prefix}{name}")
            return current
        tensor = self._tensors.pop(f"{self._prefix}{name}").detach()
        if tensor.shape != current.shape:
            self._errors.append(
                f"size mismatch for {self._prefix}{name}: the shape must be {tuple(current.shape)}; "
                f"found {tuple(tensor.shape)}"
            )
            return current
        return tensor

    def left(self) -> list[str]:
        """Names of what nobody took."""
        return list(self._tensors)


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy that is frozen and whose parameters take no memory."""
    shell = copy.deepcopy(module, {id(p): nn.Parameter(p.detach().to("meta"), False) for p in module.parameters()})
    return shell.requires_grad_(False)
