"""Modules of the base whose parameters are merged by a preference: theta_0 + sum_t lambda_t(r) tau_t (PWEMoE).

Where one preference holds for a whole batch, the merged tensors are made once and the base's own module computes with
them; `wemoe_ext.merge_weights` reads every task vector once. Where each sample has a preference of its own, linear maps
are assembled tile by tile inside `wemoe_ext.routed_linear`, and no weight of a sample exists in memory; norms and the
convolution of patches, which are small, get merged tensors for each sample.

Merged tensors are kept while no gradients are wanted. They are never stale: before each use, the routing weights at
hand are compared with those that they were merged by.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from wemoe.mlps import linear_sizes, weight_of
from wemoe.packed_layers import frozen
from wemoe.preference_routers import PreferenceRouter
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import merge_weights, routed_linear

Tensors = dict[str, Tensor]  # by the name of a parameter


class TaskVectors(nn.Module):
    """The task vectors of a module's parameters, [T, ...] each, under the parameters' own names."""

    def put(self, name: str, task_vectors: nn.Parameter) -> None:
        """Put the task vectors of one parameter under its name, which may have dots."""
        child, _, rest = name.partition(".")
        if not rest:
            self.register_parameter(child, task_vectors)
            return
        if child not in self._modules:
            self.add_module(child, TaskVectors())
        cast("TaskVectors", self.get_submodule(child)).put(rest, task_vectors)


@dataclass(frozen=True)
class _Merged:
    """Merged tensors, and what they were merged of."""

    routing_weights: Tensor  # [1, T]
    versions: tuple[tuple[int, int], ...]
    tensors: Tensors

    def fits(self, routing_weights: Tensor, versions: tuple[tuple[int, int], ...]) -> bool:
        return self.versions == versions and torch.equal(self.routing_weights, routing_weights)


_shared = threading.local()


@contextmanager
def merging_once() -> Iterator[None]:
    """Let all forwards inside share merged tensors, with their graph to the routers, in this thread.

    A training step of several batches at one preference merges once. As the batches share a part of their graphs,
    each but the last is differentiated with `retain_graph=True`.
    """
    before = getattr(_shared, "merged", None)
    _shared.merged = {}
    try:
        yield
    finally:
        _shared.merged = before


class PreferenceLayer(nn.Module):
    """A module of the base with the task vectors of T experts, merged by the routing weights of a preference.

    Attributes:
        base: the module with the base's parameters, frozen; a linear map is an `nn.Linear`, whatever it was.
        task_vectors: under the names of the parameters.
        router: shared by what belongs together, the linear maps of one MLP or one attention.
        batch_first: whether the first dimension of its input is the batch's, and not the second.

    Args:
        base: as above.
        task_vectors: as above.
        router: as above.
        batch_first: as above.
    """

    def __init__(
        self, base: nn.Module, task_vectors: TaskVectors, router: PreferenceRouter, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.base = base
        self.task_vectors = task_vectors
        self.router = router
        self.batch_first = batch_first
        self._merged: _Merged | None = None

    @classmethod
    def from_modules(
        cls,
        base: nn.Module,
        experts: Sequence[nn.Module],
        router: PreferenceRouter,
        batch_first: bool = True,
        task_vector_dtype: torch.dtype | None = None,
    ) -> PreferenceLayer:
        """Copy a module of the base and take its experts' task vectors; the arguments stay untouched.

        Args:
            base: with parameters theta_0.
            experts: T modules fine-tuned from it.
            router: gives the routing weights.
            batch_first: see the class.
            task_vector_dtype: of the task vectors; the base's by default. They are rounded to it once.

        Raises:
            ValueError: a task vector is beyond the range of `task_vector_dtype`.
        """
        layer = cls.around(copy.deepcopy(base), len(experts), router, batch_first, task_vector_dtype)
        own, theirs = _parameters_of(base), [_parameters_of(expert) for expert in experts]
        for name, stacked in layer.task_vector_tensors().items():
            stack_task_vectors(own[name], [expert[name] for expert in theirs], out=stacked.data)
        return layer

    @classmethod
    def around(
        cls,
        base: nn.Module,
        num_tasks: int,
        router: PreferenceRouter,
        batch_first: bool = True,
        task_vector_dtype: torch.dtype | None = None,
    ) -> PreferenceLayer:
        """Make the layer around a module, with memory for task vectors [T, ...] whose numbers are still to come."""
        base = _as_linear(base) if isinstance(base, Conv1D) else base
        task_vectors = TaskVectors()
        for name, theta in base.named_parameters():
            dtype = task_vector_dtype or theta.dtype
            task_vectors.put(name, frozen(num_tasks, *theta.shape, dtype=dtype, device=theta.device))
        return cls(base.requires_grad_(False), task_vectors, router, batch_first)

    @property
    def weight(self) -> Tensor:
        """The base's weight, of which owners of a module read dtype and device."""
        return self.base.weight  # type: ignore[return-value]  # a module has one where its owner reads it

    def task_vector_tensors(self) -> Mapping[str, nn.Parameter]:
        """Return the task vectors [T, ...] by the names of the parameters."""
        return dict(self.task_vectors.named_parameters())

    def task_parameters(self) -> list[nn.Parameter]:
        """What the experts add."""
        return list(self.task_vectors.parameters())

    filling_bytes = packing_bytes = 0  # of memory: nothing is packed

    @property
    def building_bytes(self) -> int:
        """What taking the experts' task vectors takes in memory beside the layer: one difference of weights."""
        return max((parameter.nbytes for parameter in self.base.parameters()), default=0)

    def merged(self, routing_weights: Tensor) -> Tensors:
        """Merge all parameters by routing weights [R, T]; by name [R, ...], in the base's dtypes."""
        task_vectors = self.task_vector_tensors()
        return {
            name: merge_weights(theta, task_vectors[name], routing_weights.to(theta.device))
            for name, theta in self.base.named_parameters()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the base's module computes, with the weights that the preference asks for.

        Raises:
            ValueError: there is a preference for each sample, of another number of samples than there are, or in a
                module that cannot tell samples apart.
        """
        routing_weights = self.router()  # [R, T]
        if routing_weights.shape[0] == 1:
            return self._call(self._merged_once(routing_weights), *args, **kwargs)
        self._merged = None
        return self._call_per_sample(routing_weights, *args, **kwargs)

    def _merged_once(self, routing_weights: Tensor) -> Tensors:
        """Return merged tensors of routing weights [1, T], those that are kept if they are still right."""
        if torch.compiler.is_compiling() or _is_capturing(routing_weights):  # values cannot be looked at
            return self._merge(routing_weights)
        if not torch.is_grad_enabled():
            self._merged = self._renewed(self._merged, routing_weights)
            return self._merged.tensors
        shared: dict[PreferenceLayer, _Merged] | None = getattr(_shared, "merged", None)
        if shared is None:
            return self._merge(routing_weights)
        shared[self] = self._renewed(shared.get(self), routing_weights)
        return shared[self].tensors

    def _renewed(self, kept: _Merged | None, routing_weights: Tensor) -> _Merged:
        parameters = (*self.base.parameters(), *self.task_vectors.parameters())
        versions = tuple(map(_version, parameters))
        if kept is not None and kept.fits(routing_weights, versions):
            return kept
        graph = torch.is_grad_enabled()  # which leaving inference mode would switch on
        with torch.inference_mode(False), torch.set_grad_enabled(graph):  # so that later forwards may use what is kept
            return _Merged(routing_weights.detach().clone(), versions, self._merge(routing_weights))

    def _merge(self, routing_weights: Tensor) -> Tensors:
        return {name: tensor[0] for name, tensor in self.merged(routing_weights).items()}

    def _call(self, tensors: Tensors, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.base, nn.Linear):
            (x,) = args
            return F.linear(x, tensors["weight"], tensors.get("bias"))
        return functional_call(self.base, tensors, args, kwargs)

    def _call_per_sample(self, routing_weights: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) != 1 or kwargs:
            raise ValueError(
                f"{type(self.base).__name__} takes one preference [T] for the whole batch; found one for each sample, "
                f"{list(routing_weights.shape)}"
            )
        x = args[0] if self.batch_first else args[0].transpose(0, 1)  # [B, ...]
        if x.shape[0] != routing_weights.shape[0]:
            raise ValueError(
                f"a preference for each sample must have as many rows as the batch has samples, {x.shape[0]}; "
                f"found {routing_weights.shape[0]}"
            )
        compute = self._assembled if isinstance(self.base, nn.Linear) else self._mapped
        y = compute(routing_weights, x)
        return y if self.batch_first else y.transpose(0, 1)

    def _assembled(self, routing_weights: Tensor, x: Tensor) -> Tensor:
        """Map x [B, ..., D] to [B, ..., F] by the weights of each sample, tile by tile."""
        base, task_vectors = cast("nn.Linear", self.base), self.task_vector_tensors()
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, M, D]
        y = routed_linear(
            tokens,
            base.weight,
            task_vectors["weight"],
            routing_weights.to(x.device),
            base.bias,
            task_vectors.get("bias"),
        )
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _mapped(self, routing_weights: Tensor, x: Tensor) -> Tensor:
        """Apply the module to each sample of x [B, ...] with tensors of its own."""

        def call(tensors: Tensors, sample: Tensor) -> Tensor:
            return functional_call(self.base, tensors, (sample,))  # type: ignore[no-any-return]

        return vmap(call)(self.merged(routing_weights), x)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and drop what is kept for inference."""
        self._merged = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._merged = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle without what is kept for inference."""
        return {**self.__dict__, "_merged": None}


def _parameters_of(module: nn.Module) -> Tensors:
    """Return the parameters of a module as its layer holds them: a Conv1D's weight is [F, D] there."""
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return parameters | {"weight": weight_of(module).detach()} if isinstance(module, Conv1D) else parameters


def _as_linear(module: Conv1D) -> nn.Linear:
    """Store a Conv1D's weight as any other linear map's."""
    linear = nn.Linear(*linear_sizes(module), device="meta")
    linear.weight = nn.Parameter(module.weight.detach().T.contiguous())
    linear.bias = nn.Parameter(module.bias.detach())
    return linear


def _version(tensor: Tensor) -> tuple[int, int]:
    """Return what changes when a tensor is written to, or another one takes its place."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _is_capturing(tensor: Tensor) -> bool:
    """Whether what is computed becomes a graph of CUDA, which may not wait for values."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
