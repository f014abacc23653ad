"""Routed layers: linear maps and MLPs whose weights are assembled for every sample, W0 + sum_t lambda_t(x) tau_t.

Base weights and task vectors are frozen parameters; only routers require gradients. The assembly happens tile by tile
inside `wemoe_ext.routed_linear`: the weights of a whole batch never exist in memory. On a CPU frozen weights live
packed, in the order in which the assembly reads them; state dicts and saved files hold them in their plain shapes.
Weights that are sharded over processes (FSDP2) keep the layout that they were sharded in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from wemoe.mlps import Activation, LinearMap, MLPParts, linear_sizes, weight_of
from wemoe.routers import Router
from wemoe.routing_scope import current_scope
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import pack_task_vectors, routed_linear, unpack_task_vectors
from wemoe_ext.packing import LINE

PACKED = ("weight", "task_vectors")  # what packing rearranges; biases keep their shapes


class RoutedLinear(nn.Module):
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
        super().__init__()

        def frozen(*shape: int, of: torch.dtype | None = dtype) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=of, device=device), requires_grad=False)

        self.in_features = in_features
        self.out_features = out_features
        self.num_tasks = num_tasks
        task_dtype = task_vector_dtype or dtype
        self.weight = frozen(out_features, in_features)
        self.task_vectors = frozen(num_tasks, out_features, in_features, of=task_dtype)
        self.bias = frozen(out_features) if bias else None
        self.task_biases = frozen(num_tasks, out_features, of=task_dtype) if bias else None

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
        """The task vectors of weight and bias: what the experts add."""
        return [self.task_vectors] if self.task_biases is None else [self.task_vectors, self.task_biases]

    @property
    def is_packed(self) -> bool:
        """Whether the frozen weights are packed."""
        return self.weight.dim() == 3

    @property
    def is_packable(self) -> bool:
        """Whether a CPU reads the frozen weights faster when they are packed: F a multiple of 16, nothing in fp64."""
        return self.out_features % LINE == 0 and torch.float64 not in (self.weight.dtype, self.task_vectors.dtype)

    def pack(self) -> None:
        """Pack the frozen weights in place where that makes them faster: on a CPU, if they are packable.

        Layers that are made, loaded or moved pack themselves; elsewhere they are unpacked again. Sharded weights stay
        as they are.
        """
        if isinstance(self.weight, DTensor):
            return
        packs = self.weight.device.type == "cpu" and self.is_packable
        if packs and not self.is_packed:
            self._rearrange(pack_task_vectors)
        elif not packs:
            self.unpack()

    def unpack(self) -> None:
        """Give the frozen weights their plain shapes, [F, D] and [T, F, D], in place; sharded ones stay as they are."""
        if self.is_packed and not isinstance(self.weight, DTensor):
            self._rearrange(unpack_task_vectors)

    def _rearrange(self, layout: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.weight.data, self.task_vectors.data = layout(self.weight.data, self.task_vectors.data)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.pack()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_packed:
            plain = _rearranged(unpack_task_vectors, self.weight.detach(), self.task_vectors.detach())
            destination[f"{prefix}weight"], destination[f"{prefix}task_vectors"] = plain

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = [f"{prefix}{name}" for name in PACKED]
        if isinstance(self.weight, DTensor) and self.is_packed and state_dict.keys() >= set(names):
            packed = _rearranged(pack_task_vectors, *(state_dict[name] for name in names))
            state_dict = state_dict | dict(zip(names, packed, strict=True))
        self.unpack()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.pack()

    def extra_repr(self) -> str:
        """Show the sizes, D, F and T, whether there is a bias, how weights are kept, and the dtypes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, tasks={self.num_tasks}, "
            f"bias={self.bias is not None}, packed={self.is_packed}, dtype={self.weight.dtype}, "
            f"task_vectors={self.task_vectors.dtype}"
        )


def _rearranged(
    layout: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], weight: Tensor, task_vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Give weights another layout; sharded ones are gathered for it by all processes, and sharded again."""
    if not (isinstance(weight, DTensor) and isinstance(task_vectors, DTensor)):
        return layout(weight, task_vectors)
    mesh = weight.device_mesh
    # shards of one layout hold other numbers than those of the other, and views of uneven shards do not exist
    placements = [Shard(0) if placement.is_shard() else placement for placement in weight.placements]
    first, second = layout(weight.full_tensor(), task_vectors.full_tensor())
    # every process holds the whole: each takes its own part and nothing is sent
    return (
        distribute_tensor(first, mesh, placements, src_data_rank=None),
        distribute_tensor(second, mesh, placements, src_data_rank=None),
    )


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
    """

    def __init__(
        self,
        up: RoutedLinear,
        activation: Activation,
        down: RoutedLinear,
        router: Router,
        gate: RoutedLinear | None = None,
        batch_reduce: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        self.router = router
        self.gate = gate
        self.up = up
        self.activation = activation
        self.down = down
        self.batch_reduce = batch_reduce
        self.batch_first = batch_first

    @classmethod
    def from_parts(
        cls,
        base: MLPParts,
        experts: Sequence[MLPParts],
        router: Router,
        batch_reduce: bool = False,
        batch_first: bool = True,
        task_vector_dtype: torch.dtype | None = None,
    ) -> RoutedMLP:
        """Build the routed MLP of a base MLP and its experts; the arguments stay untouched."""
        gates = [expert.gate for expert in experts if expert.gate is not None]
        return cls(
            RoutedLinear.from_linears(base.up, [expert.up for expert in experts], task_vector_dtype),
            copy.deepcopy(base.activation),
            RoutedLinear.from_linears(base.down, [expert.down for expert in experts], task_vector_dtype),
            router,
            None if base.gate is None else RoutedLinear.from_linears(base.gate, gates, task_vector_dtype),
            batch_reduce,
            batch_first,
        )

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
        routing_weights = current_scope().route(self.router, hidden_states)  # [R, T], R = B or 1
        if self.batch_reduce:
            routing_weights = routing_weights.mean(dim=0, keepdim=True)
        batched = routing_weights.shape[0] == hidden_states.shape[0]
        x = hidden_states if batched else hidden_states.reshape(1, -1, hidden_states.shape[-1])  # [R, M, D]
        up = self.up(x, routing_weights)  # [R, M, F]
        inner = self.activation(up) if self.gate is None else self.activation(self.gate(x, routing_weights)) * up
        if self.down.weight.dtype != self.up.weight.dtype:  # T5 keeps this map alone in fp32
            inner = inner.to(self.down.weight.dtype)
        outer: Tensor = self.down(inner, routing_weights)  # [R, M, D]
        return outer.reshape(*hidden_states.shape[:2], outer.shape[-1])

    def extra_repr(self) -> str:
        """Show what no child shows."""
        return f"batch_reduce={self.batch_reduce}, batch_first={self.batch_first}"
