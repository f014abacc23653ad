"""The ops in plain PyTorch: what correct means. Written to be read, never optimised."""

import torch
from torch import Tensor

from wemoe_ext.packing import SparseTaskVectors, expand_task_vectors, unpack_task_vectors


def routed_linear(
    x: Tensor,
    weight: Tensor,
    task_vectors: Tensor | SparseTaskVectors,
    routing_weights: Tensor,
    bias: Tensor | None = None,
    task_biases: Tensor | None = None,
) -> Tensor:
    """See :func:`wemoe_ext.ops.routed_linear`."""
    if isinstance(task_vectors, SparseTaskVectors):
        task_vectors = expand_task_vectors(task_vectors)
    if weight.dim() == 3:
        weight, task_vectors = unpack_task_vectors(weight, task_vectors)
    dtype = _compute_dtype(x)
    merged_weight = merge_weights(weight.to(dtype), task_vectors, routing_weights)  # [R, F, D]
    y = torch.einsum("rmd,rfd->rmf", x.to(dtype), merged_weight)
    if bias is not None:
        merged_bias = bias.to(dtype)  # [F]
        if task_biases is not None:
            merged_bias = merge_weights(merged_bias, task_biases, routing_weights)[:, None, :]  # [R, 1, F]
        y = y + merged_bias
    return y.to(x.dtype)


def merge_weights(base: Tensor, task_vectors: Tensor, routing_weights: Tensor) -> Tensor:
    """See :func:`wemoe_ext.ops.merge_weights`."""
    dtype = _compute_dtype(base)
    update = torch.einsum("rt,t...->r...", routing_weights.to(dtype), task_vectors.to(dtype))
    return (base.to(dtype) + update).to(base.dtype)


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
