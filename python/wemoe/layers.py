"""Routed layers: linear maps and MLPs whose weights are assembled for every sample, W0 + sum_t lambda_t(x) tau_t.

Base weights and task vectors are frozen parameters; only routers require gradients. The assembly happens tile by tile
inside `wemoe_ext.routed_linear`: the weights of a whole batch never exist in memory. On a CPU frozen weights live
packed, in the order in which the assembly reads them (`wemoe.packed_layers`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wemoe.mlps import Activation, LinearMap, MLPParts, linear_sizes, weight_of
from wemoe.packed_layers import PackedLinear, frozen
from wemoe.routers import Router, with_position
from wemoe.routing_scope import current_batch_reduce, current_scope
from wemoe.sparse_layers import SparseRoutedLinear
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import pack_task_vectors, routed_linear, unpack_task_vectors
from wemoe_ext.packing import LINE


class RoutedLinear(PackedLinear):
    """A linear map y = x (W0 + sum_t lambda_t tau_t)^T + b0 + sum_t lambda_t beta_t.

    Attributes:
        weight: W0, [F, D]; packed [F / 16, D, 16].
        task_vectors: tau, [T, F, D]; packed [F / 16, D, T, 16].
        bias: b0, [F], or None.
        task_biases: beta, [T, F], or None.

    Args:
        in_features: D.
        out_features: F.
        num_tasks: T.
        bias: whether there is a bias b0 [F] with task vectors beta [T, F].
        dtype: of the base's weights.
        device: of the frozen weights.
        task_vector_dtype: of the task vectors; `dtype` by default.
    """

    packed_names = ("weight", "task_vectors")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        bias: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        task_vector_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, num_tasks)
        task_dtype = task_vector_dtype or dtype
        self.weight = frozen(out_features, in_features, dtype=dtype, device=device)
        self.task_vectors = frozen(num_tasks, out_features, in_features, dtype=task_dtype, device=device)
        self.bias = frozen(out_features, dtype=dtype, device=device) if bias else None
        self.task_biases = frozen(num_tasks, out_features, dtype=task_dtype, device=device) if bias else None

    @classmethod
    def from_linears(
        cls, base: LinearMap, experts: Sequence[LinearMap], task_vector_dtype: torch.dtype | None = None
    ) -> RoutedLinear:
        """Copy the weights of a base and take its experts' task vectors; the arguments stay untouched.

        Args:
            base: D -> F.
            experts: T linear maps fine-tuned from it.
            task_vector_dtype: of the task vectors; the base's by default. They are rounded to it once, after the
                difference is taken in fp32 or better.

        Raises:
            ValueError: a task vector is beyond the range of `task_vector_dtype`.
        """
        weight, bias = weight_of(base), base.bias
        size = (*linear_sizes(base), len(experts))
        layer = cls(*size, bias is not None, weight.dtype, weight.device, task_vector_dtype)
        layer.weight.data.copy_(weight.detach())
        stack_task_vectors(weight, [weight_of(expert) for expert in experts], out=layer.task_vectors.data)
        if layer.bias is not None and layer.task_biases is not None:
            layer.bias.data.copy_(bias.detach())
            stack_task_vectors(bias, [expert.bias for expert in experts], out=layer.task_biases.data)
        layer.pack()
        return layer

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Map x [R, M, D] by the weights of routing weights [R, T] to [R, M, F]."""
        return routed_linear(x, self.weight, self.task_vectors, routing_weights, self.bias, self.task_biases)

    def task_parameters(self) -> list[nn.Parameter]:
        """What the experts add: the task vectors of weight and bias."""
        return [self.task_vectors] if self.task_biases is None else [self.task_vectors, self.task_biases]

    @property
    def is_packable(self) -> bool:
        """Whether a CPU reads the frozen weights faster when they are packed: F a multiple of 16, nothing in fp64."""
        return self.out_features % LINE == 0 and torch.float64 not in (self.weight.dtype, self.task_vectors.dtype)

    @property
    def packing_bytes(self) -> int:
        """The layer as it was before, where it is packed."""
        return sum(parameter.nbytes for parameter in self.parameters()) if self.is_packable else 0

    @property
    def building_bytes(self) -> int:
        """One difference of weights."""
        return sum(parameter.nbytes for parameter in (self.weight, self.bias) if parameter is not None)

    def to_packed(self, *plain: Tensor) -> tuple[Tensor, ...]:
        """Rearrange weight and task vectors, [F, D] and [T, F, D], to [F / 16, D, 16] and [F / 16, D, T, 16]."""
        return pack_task_vectors(*plain)

    def to_plain(self, *packed: Tensor) -> tuple[Tensor, ...]:
        """Rearrange weight and task vectors, [F / 16, D, 16] and [F / 16, D, T, 16], to [F, D] and [T, F, D]."""
        return unpack_task_vectors(*packed)

    def pack(self) -> None:
        """Pack the frozen weights in place where that makes them faster, on a CPU if they are packable; else unpack.

        Layers that are made, loaded or moved do it themselves. Sharded weights stay as they are.
        """
        if isinstance(self.weight, DTensor):
            return
        packs = self.weight.device.type == "cpu" and self.is_packable
        if packs and not self.is_packed:
            self._replace(self.to_packed(*self._held()))
        elif not packs:
            self.unpack()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.pack()
        return self

    def extra_repr(self) -> str:
        """Show the sizes, D, F and T, whether there is a bias, how weights are kept, and the dtypes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, tasks={self.num_tasks}, "
            f"bias={self.bias is not None}, packed={self.is_packed}, dtype={self.weight.dtype}, "
            f"task_vectors={self.task_vectors.dtype}"
        )


RoutedMap = RoutedLinear | SparseRoutedLinear


class RoutedMLP(nn.Module):
    """An MLP whose weights are assembled for every sample by a router (WEMoE, arXiv 2402.00433, section 3.2).

    It computes down(activation(up(x))), or with a gate down(activation(gate(x)) * up(x)). All tokens of a sample share
    one set of weights: the router's mean over the tokens that may vote (`wemoe.routing_scope`).

    Args:
        up: routed linear map D -> F.
        activation: between the maps; of an `up` that holds the gate too, a `wemoe.mlps.FusedGate`.
        down: routed linear map F -> D.
        router: maps hidden states to routing weights.
        gate: routed linear map D -> F of a gated MLP.
        batch_reduce: average the routing weights over the batch, one set of weights for all samples; a sample's
            output then depends on the rest of its batch, in a distributed run on that of its own process.
        batch_first: whether hidden states are [B, N, D]; otherwise [N, B, D].
        position: an encoding of the block's place, which the router reads before the hidden states of each token.
    """

    def __init__(
        self,
        up: RoutedMap,
        activation: Activation,
        down: RoutedMap,
        router: Router,
        gate: RoutedMap | None = None,
        batch_reduce: bool = False,
        batch_first: bool = True,
        position: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.router = router
        self.gate = gate
        self.up = up
        self.activation = activation
        self.down = down
        self.batch_reduce = batch_reduce
        self.batch_first = batch_first
        self.position = position

    @classmethod
    def from_parts(
        cls,
        base: MLPParts,
        experts: Sequence[MLPParts],
        router: Router,
        batch_reduce: bool = False,
        batch_first: bool = True,
        task_vector_dtype: torch.dtype | None = None,
        prune: Callable[[Tensor], Tensor] | None = None,
        position: tuple[float, ...] | None = None,
    ) -> RoutedMLP:
        """Build the routed MLP of a base MLP and its experts; the arguments stay untouched.

        With `prune`, which zeros what is not kept of a task vector of one tensor, task vectors are sparse.
        """

        def routed(linear: LinearMap, tuned: Sequence[LinearMap]) -> RoutedMap:
            if prune is None:
                return RoutedLinear.from_linears(linear, tuned, task_vector_dtype)
            return SparseRoutedLinear.from_linears(linear, tuned, prune, task_vector_dtype)

        gates = [expert.gate for expert in experts if expert.gate is not None]
        return cls(
            routed(base.up, [expert.up for expert in experts]),
            copy.deepcopy(base.activation),
            routed(base.down, [expert.down for expert in experts]),
            router,
            None if base.gate is None else routed(base.gate, gates),
            batch_reduce,
            batch_first,
            position,
        )

    @property
    def averages_batch(self) -> bool:
        """Whether routing weights are averaged over the batch now: `batch_reduce`, or what a context says instead."""
        chosen = current_batch_reduce()
        return self.batch_reduce if chosen is None else chosen

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map hidden states [B, N, D], or [N, B, D] without `batch_first`, to the same shape.

        Raises:
            ValueError: `hidden_states` has no three dimensions, or not the D of this layer.
        """
        width = self.up.in_features
        if hidden_states.dim() != 3 or hidden_states.shape[-1] != width:
            layout = "[B, N, D]" if self.batch_first else "[N, B, D]"
            raise ValueError(f"hidden_states must be {layout} with D = {width}; found {tuple(hidden_states.shape)}")
        if not self.batch_first:
            return self._forward(hidden_states.transpose(0, 1)).transpose(0, 1)
        return self._forward(hidden_states)

    def _forward(self, hidden_states: Tensor) -> Tensor:
        routing_weights = current_scope().route(self._route, hidden_states)  # [R, T], R = B or 1
        if self.averages_batch:
            routing_weights = routing_weights.mean(dim=0, keepdim=True)
        batched = routing_weights.shape[0] == hidden_states.shape[0]
        x = hidden_states if batched else hidden_states.reshape(1, -1, hidden_states.shape[-1])  # [R, M, D]
        up = self.up(x, routing_weights)  # [R, M, F]
        inner = self.activation(up) if self.gate is None else self.activation(self.gate(x, routing_weights)) * up
        if self.down.weight.dtype != self.up.weight.dtype:  # T5 keeps this map alone in fp32
            inner = inner.to(self.down.weight.dtype)
        outer: Tensor = self.down(inner, routing_weights)  # [R, M, D]
        return outer.reshape(*hidden_states.shape[:2], outer.shape[-1])

    def _route(self, hidden_states: Tensor, token_mask: Tensor | None) -> Tensor:
        seen = hidden_states if self.position is None else with_position(hidden_states, self.position)
        routing_weights: Tensor = self.router(seen, token_mask)
        return routing_weights.to(hidden_states.device)  # a router of several blocks may lie on another device

    def extra_repr(self) -> str:
        """Show what no child shows."""
        return f"batch_reduce={self.batch_reduce}, batch_first={self.batch_first}"
