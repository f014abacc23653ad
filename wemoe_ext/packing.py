"""Packed weights: the layout in which frozen weights are read fastest on a CPU.

Each input's outputs lie side by side in lines of 16, for the base and for the experts in turn, so that assembling a
tile of weights reads memory in order. :func:`wemoe_ext.routed_linear` takes packed weights wherever it takes plain
ones; the numbers are the same, to the last bit. ``csrc/packed.h`` knows the same layout.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LINE = 16  # outputs of a line: a cache line of float32
INPUT_BLOCK = 32  # inputs whose sparse values are found by one offset


class SparseTaskVectors(NamedTuple):
    """Task vectors of which only the numbers that are not zero are kept, in the order of packed task vectors.

    At a share of 10 % in float32 they take 0.13 of the memory of dense ones.
    """

    masks: Tensor  # [F / 16, D, T] int16: bit i tells that output i of the line is not zero
    values: Tensor  # [V]: a number for each bit that is set, then LINE zeros
    offsets: Tensor  # [F / 16, ceil(D / 32)] int64: where the values of 32 inputs start


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
    lines = task_vectors.reshape(task_vectors.shape[0], F // LINE, LINE, D)
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


def pack_sparse_task_vectors(weight: Tensor, task_vectors: Tensor) -> tuple[Tensor, SparseTaskVectors]:
    """Packs a base weight and its task vectors, and keeps of the latter only what is not zero.

    Args:
        weight: Base weight, ``[F, D]``.
        task_vectors: Task vectors, ``[T, F, D]``, most of them zero for this to pay.

    Returns:
        Packed weight, ``[F / 16, D, 16]``, and sparse task vectors, in the dtype of ``task_vectors``.

    Raises:
        ValueError: ``F`` is no multiple of 16, or the shapes do not fit.
    """
    packed_weight, lines = pack_task_vectors(weight, task_vectors)
    present = lines != 0  # [F / 16, D, T, 16]
    bits = 1 << torch.arange(LINE, dtype=torch.int32, device=lines.device)
    masks = (present * bits).sum(dim=-1, dtype=torch.int32).to(torch.int16)
    values = torch.cat([lines[present], lines.new_zeros(LINE)])
    strips, D = present.shape[:2]
    counts = present.sum(dim=(2, 3))  # [F / 16, D]
    blocks = -(-D // INPUT_BLOCK)
    padded = torch.nn.functional.pad(counts, (0, blocks * INPUT_BLOCK - D))
    ends = padded.view(strips * blocks, INPUT_BLOCK).sum(dim=1).cumsum(dim=0)
    offsets = torch.nn.functional.pad(ends, (1, 0))[:-1].view(strips, blocks)
    return packed_weight, SparseTaskVectors(masks, values, offsets)


def expand_task_vectors(sparse: SparseTaskVectors) -> Tensor:
    """Packed dense task vectors, ``[F / 16, D, T, 16]``, of sparse ones; every number is the same."""
    bits = torch.arange(LINE, dtype=torch.int16, device=sparse.masks.device)
    present = (sparse.masks.unsqueeze(-1) >> bits & 1).bool()
    return sparse.values.new_zeros(present.shape).masked_scatter_(present, sparse.values)
