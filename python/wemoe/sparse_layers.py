"""Routed linear maps whose task vectors are mostly zero (E-WEMoE, arXiv 2410.21804): only the rest is kept.

At 90 % zeros in fp32 the task vectors take 0.13 of the memory of dense ones, in memory and in files, on every device
and whatever the sizes; a device without sparse kernels expands one layer's at a time, when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from wemoe.mlps import LinearMap, linear_sizes, weight_of
from wemoe.packed_layers import PackedLinear, frozen
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import (
    SparseTaskVectors,
    check_sparse_task_vectors,
    pack_sparse_task_vectors,
    pack_weight,
    routed_linear,
    unpack_weight,
)
from wemoe_ext.packing import INPUT_BLOCK, LINE

SPARSE = ("masks", "values", "offsets")
PRUNING = 4  # measured: fp32 tensors of a task vector's size that are there beside the model while it is pruned
TABLES = 3 * 2**16 * 8  # bytes in which magnitudes are counted meanwhile


class SparseRoutedLinear(PackedLinear):
    """A linear map y = x (W0 + sum_t lambda_t tau_t)^T + b0 + sum_t lambda_t beta_t with sparse task vectors tau.

    They are in lines of 16 outputs, as the ops take them; F is filled up with zeros to a multiple of 16. What is not
    a number of the model has a dtype that every backend of torch.distributed can send.

    Attributes:
        weight: W0, packed [F / 16, D, 16]; plain [F, D] until the layer is loaded.
        masks: uint8 [F / 16, D, 2 T]: bit i of bytes 2 t and 2 t + 1 tells that tau_t of output i of a line is kept.
        values: [V], the numbers that are kept, in the order of the masks' bits, then 16 zeros.
        offsets: int64 [F / 16, ceil(D / 32)], where the values of 32 inputs start.
        bias: b0, [F], or None.
        task_biases: beta, [T, F], or None; dense, for they are small.

    Args:
        in_features: D.
        out_features: F.
        num_tasks: T.
        bias: whether there is a bias b0 [F] with task vectors beta [T, F].
        dtype: of the base's weights.
        device: of the frozen weights.
        task_vector_dtype: of the task vectors; `dtype` by default.
        kept: how many numbers of tau are kept, V without its zeros; a state dict may hold another number.
    """

    packed_names = ("weight",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        bias: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        task_vector_dtype: torch.dtype | None = None,
        kept: int = 0,
    ) -> None:
        super().__init__(in_features, out_features, num_tasks)
        lines = -(-out_features // LINE)
        task_dtype = task_vector_dtype or dtype
        self.weight = frozen(out_features, in_features, dtype=dtype, device=device)
        self.masks = frozen(lines, in_features, 2 * num_tasks, dtype=torch.uint8, device=device)
        self.values = frozen(kept + LINE, dtype=task_dtype, device=device)
        self.offsets = frozen(lines, -(-in_features // INPUT_BLOCK), dtype=torch.int64, device=device)
        self.bias = frozen(out_features, dtype=dtype, device=device) if bias else None
        self.task_biases = frozen(num_tasks, out_features, dtype=task_dtype, device=device) if bias else None

    @classmethod
    def from_linears(
        cls,
        base: LinearMap,
        experts: Sequence[LinearMap],
        prune: Callable[[Tensor], Tensor],
        task_vector_dtype: torch.dtype | None = None,
    ) -> SparseRoutedLinear:
        """Copy the weights of a base and take what is kept of its experts' task vectors; the arguments stay untouched.

        Args:
            base: D -> F.
            experts: T linear maps fine-tuned from it.
            prune: zeros the entries of a task vector of one tensor that are not kept; it is given differences in fp32
                or better.
            task_vector_dtype: of the task vectors; the base's by default. They are rounded to it once, when pruned.

        Raises:
            ValueError: a task vector is beyond the range of `task_vector_dtype`.
        """
        weight, bias = weight_of(base), base.bias
        size = (*linear_sizes(base), len(experts))
        layer = cls(*size, bias is not None, weight.dtype, weight.device, task_vector_dtype)
        own = _filled_up(layer.weight.data.copy_(weight.detach()), dim=0)
        dense = layer.values.new_zeros(layer.num_tasks, *own.shape)
        tuned = [weight_of(expert) for expert in experts]
        stack_task_vectors(weight, tuned, dense[:, : layer.out_features], prune)
        layer.weight.data, sparse = pack_sparse_task_vectors(own, dense)
        layer.masks.data, layer.values.data, layer.offsets.data = sparse.masks.view(torch.uint8), *sparse[1:]
        if layer.bias is not None and layer.task_biases is not None:
            layer.bias.data.copy_(bias.detach())
            stack_task_vectors(bias, [expert.bias for expert in experts], layer.task_biases.data, prune)
        return layer

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Map x [R, M, D] by the weights of routing weights [R, T] to [R, M, F]."""
        weight = self.weight if self.is_packed else pack_weight(_filled_up(self.weight, dim=0))
        bias = None if self.bias is None else _filled_up(self.bias, dim=0)
        task_biases = None if self.task_biases is None else _filled_up(self.task_biases, dim=1)
        y = routed_linear(x, weight, self.task_vectors, routing_weights, bias, task_biases)
        return y if y.shape[-1] == self.out_features else y[..., : self.out_features]

    @property
    def task_vectors(self) -> SparseTaskVectors:
        """tau, as the ops take it."""
        return SparseTaskVectors(self.masks.view(torch.int16), self.values, self.offsets)

    def task_parameters(self) -> list[nn.Parameter]:
        """What the experts add: masks, values and offsets, and the task vectors of the bias."""
        held = [self.masks, self.values, self.offsets]
        return held if self.task_biases is None else [*held, self.task_biases]

    @property
    def size(self) -> int:
        """How many numbers the layer is made of: those of the base, and of the task vectors those that are kept."""
        base = self.in_features * self.out_features + (0 if self.bias is None else self.out_features)
        biases = 0 if self.task_biases is None else int(self.task_biases.count_nonzero())
        return base + self.values.shape[0] - LINE + biases

    @property
    def filling_bytes(self) -> int:
        """The outputs that fill up the last line, where the weight is still plain."""
        return self.masks.shape[0] * LINE * self.in_features * self.weight.itemsize - self.weight.nbytes

    @property
    def packing_bytes(self) -> int:
        """The weight in its other layout; then the bits of the masks, which are counted one by one."""
        return max(self.in_features * self.out_features * self.weight.itemsize, 2 * self.masks.nbytes)

    @property
    def building_bytes(self) -> int:
        """The task vectors before they are sparse, and what pruning the last of them takes."""
        size = self.in_features * self.out_features
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        pruning = (PRUNING + (exact != self.weight.dtype)) * size * exact.itemsize + TABLES
        sparse = sum(parameter.nbytes for parameter in self.task_parameters())  # which is not there yet
        return self.num_tasks * size * self.values.itemsize + pruning - sparse

    def to_packed(self, *plain: Tensor) -> tuple[Tensor, ...]:
        """Rearrange the weight, [F, D], to [F / 16, D, 16]."""
        return tuple(pack_weight(_filled_up(weight, dim=0)) for weight in plain)

    def to_plain(self, *packed: Tensor) -> tuple[Tensor, ...]:
        """Rearrange the weight, [F / 16, D, 16], to [F, D]."""
        return tuple(unpack_weight(weight)[: self.out_features] for weight in packed)

    def pack(self) -> None:
        """Pack the weight in place, on every device; a sharded one stays as it is.

        Raises:
            ValueError: masks, values and offsets do not belong together.
        """
        if isinstance(self.weight, DTensor) or self.is_packed:
            return
        if not self.masks.is_meta:
            check_sparse_task_vectors(self.task_vectors)
        self._replace(self.to_packed(*self._held()))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        masks, values, offsets = (state_dict.get(f"{prefix}{name}", getattr(self, name)) for name in SPARSE)
        whole = not any(isinstance(tensor, DTensor) or tensor.is_meta for tensor in (masks, values, offsets))
        if whole and (masks.shape, offsets.shape) == (self.masks.shape, self.offsets.shape):
            try:
                check_sparse_task_vectors(SparseTaskVectors(masks.to(torch.uint8).view(torch.int16), values, offsets))
            except ValueError as error:
                error_msgs.append(f"sparse task vectors of {prefix!r} must be whole: {error}")
                return
            if values.shape != self.values.shape:
                self.values.data = self.values.new_zeros(values.shape)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Show the sizes, D, F and T, whether there is a bias, how much is kept, and the dtypes."""
        size = self.in_features * self.out_features * self.num_tasks
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, tasks={self.num_tasks}, "
            f"bias={self.bias is not None}, kept={100 * (self.values.shape[0] - LINE) / max(size, 1):.1f} %, "
            f"dtype={self.weight.dtype}, task_vectors={self.values.dtype}"
        )


def _filled_up(tensor: Tensor, dim: int) -> Tensor:
    """Fill a dimension up with zeros to a multiple of 16."""
    missing = -tensor.shape[dim] % LINE
    if not missing:
        return tensor
    return functional.pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, missing))
