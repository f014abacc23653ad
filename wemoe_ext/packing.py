"""Packed weights: the layout in which frozen weights are read fastest on a CPU.

Each input's outputs lie side by side in lines of 16, for the base and for the experts in turn, so that assembling a
tile of weights reads memory in order. :func:`wemoe_ext.routed_linear` takes packed weights wherever it takes plain
ones; the numbers are the same, to the last bit.
"""

import torch
from torch import Tensor

LINE = 16  # outputs of a line: a cache line of float32


def can_pack(weight: Tensor) -> bool:
    """Tells whether a weight ``[F, D]`` can be packed: ``F`` is a multiple of 16, the dtype is not float64."""
    return weight.dim() == 2 and weight.shape[0] % LINE == 0 and weight.dtype != torch.float64


def pack_task_vectors(weight: Tensor, task_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Packs a base weight and its task vectors, each in its own dtype.

    Args:
        weight: Base weight, ``[F, D]``.
        task_vectors: Task vectors, ``[T, F, D]``.

    Returns:
        Packed weight, ``[F / 16, D, 16]``, and packed task vectors, ``[F / 16, D, T, 16]``.

    Raises:
        ValueError: ``F`` is no multiple of 16, or the shapes do not fit.
    """
    if weight.dim() != 2 or weight.shape[0] % LINE:
        raise ValueError(
            f"pack_task_vectors: `weight` must have shape [F, D] with F a multiple of {LINE}. "
            f"Found {list(weight.shape)}."
        )
    F, D = weight.shape
    if task_vectors.dim() != 3 or task_vectors.shape[1:] != weight.shape:
        raise ValueError(
            f"pack_task_vectors: `task_vectors` must have shape [T, F = {F}, D = {D}]. "
            f"Found {list(task_vectors.shape)}."
        )
    lines = task_vectors.reshape(-1, F // LINE, LINE, D)
    return weight.reshape(F // LINE, LINE, D).transpose(1, 2).contiguous(), lines.permute(1, 3, 0, 2).contiguous()


def unpack_task_vectors(weight: Tensor, task_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Takes packed weights apart again: the inverse of :func:`pack_task_vectors`.

    Args:
        weight: Packed weight, ``[F / 16, D, 16]``.
        task_vectors: Packed task vectors, ``[F / 16, D, T, 16]``.

    Returns:
        Base weight, ``[F, D]``, and task vectors, ``[T, F, D]``.
    """
    strips, D, tasks, _ = task_vectors.shape
    plain = task_vectors.permute(2, 0, 3, 1).reshape(tasks, strips * LINE, D)
    return weight.transpose(1, 2).reshape(strips * LINE, D), plain
