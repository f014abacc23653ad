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
CHUNK = 2**18  # numbers of task vectors that are looked at together when they become sparse


class SparseTaskVectors(NamedTuple):
    """Task vectors of which only the numbers that are not zero are kept, in the order of packed task vectors.

    At a share of 10 % in float32 they take 0.13 of the memory of dense ones.
    """

    masks: Tensor  # [F / 16, D, T] int16: bit i tells that output i of the line is not zero
    values: Tensor  # [V]: a number for each bit that is set, then LINE zeros
    offsets: Tensor  # [F / 16, ceil(D / 32)] int64: where the values of 32 inputs start


def pack_weight(weight: Tensor) -> Tensor:
    """Packs a base weight alone, ``[F, D]`` with ``F`` a multiple of 16, to ``[F / 16, D, 16]``."""
    F, D = weight.shape
    return weight.reshape(F // LINE, LINE, D).transpose(1, 2).contiguous()


def unpack_weight(weight: Tensor) -> Tensor:
    """Takes a packed weight apart again: the inverse of :func:`pack_weight`."""
    strips, D, _ = weight.shape
    return weight.transpose(1, 2).reshape(strips * LINE, D)


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
    _check("pack_task_vectors", weight, task_vectors)
    return pack_weight(weight), _in_lines(task_vectors).contiguous()


def unpack_task_vectors(weight: Tensor, task_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Takes packed weights apart again: the inverse of :func:`pack_task_vectors`.

    Args:
        weight: Packed weight, ``[F / 16, D, 16]``.
        task_vectors: Packed task vectors, ``[F / 16, D, T, 16]``.

    Returns:
        Base weight, ``[F, D]``, and task vectors, ``[T, F, D]``.
    """
    strips, D, tasks, _ = task_vectors.shape
    return unpack_weight(weight), task_vectors.permute(2, 0, 3, 1).reshape(tasks, strips * LINE, D)


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
    _check("pack_sparse_task_vectors", weight, task_vectors)
    lines = _in_lines(task_vectors)  # [F / 16, D, T, 16]
    strips, D, tasks, _ = lines.shape
    bits = 1 << torch.arange(LINE, dtype=torch.int32, device=lines.device)
    masks = torch.empty(strips, D, tasks, dtype=torch.int16, device=lines.device)
    values = []
    together = max(1, CHUNK // max(1, D * tasks * LINE))  # so that little is there beside dense and sparse ones
    for some, mask in zip(torch.split(lines, together), torch.split(masks, together), strict=True):
        present = some != 0
        mask.copy_((present * bits).sum(dim=-1, dtype=torch.int32))
        values.append(some[present])
    padded = torch.cat([*values, lines.new_zeros(LINE)])
    return pack_weight(weight), SparseTaskVectors(masks, padded, _offsets(masks))


def check_sparse_task_vectors(sparse: SparseTaskVectors) -> None:
    """Checks that the three tensors of sparse task vectors belong together; their shapes are the ops' to check.

    Raises:
        ValueError: ``values`` or ``offsets`` are those of other masks.
    """
    kept = int(_bits_of(sparse.masks).sum())
    if sparse.values.shape[0] != kept + LINE:
        raise ValueError(
            f"`values` must hold a number for each bit of `masks`, {kept}, and {LINE} more. "
            f"Found {sparse.values.shape[0]}."
        )
    if not torch.equal(sparse.offsets, _offsets(sparse.masks)):
        raise ValueError("`offsets` must tell where `values` holds the numbers of `masks`. Found those of other masks.")


def expand_task_vectors(sparse: SparseTaskVectors) -> Tensor:
    """Packed dense task vectors, ``[F / 16, D, T, 16]``, of sparse ones; every number is the same."""
    bits = torch.arange(LINE, dtype=torch.int16, device=sparse.masks.device)
    present = (sparse.masks.unsqueeze(-1) >> bits & 1).bool()
    return sparse.values.new_zeros(present.shape).masked_scatter_(present, sparse.values)


def _check(function: str, weight: Tensor, task_vectors: Tensor) -> None:
    if weight.dim() != 2 or weight.shape[0] % LINE:
        raise ValueError(
            f"{function}: `weight` must have shape [F, D] with F a multiple of {LINE}. Found {list(weight.shape)}."
        )
    F, D = weight.shape
    if task_vectors.dim() != 3 or task_vectors.shape[1:] != weight.shape:
        raise ValueError(
            f"{function}: `task_vectors` must have shape [T, F = {F}, D = {D}]. Found {list(task_vectors.shape)}."
        )


def _in_lines(task_vectors: Tensor) -> Tensor:
    """Task vectors ``[T, F, D]`` seen as ``[F / 16, D, T, 16]``."""
    tasks, F, D = task_vectors.shape
    return task_vectors.reshape(tasks, F // LINE, LINE, D).permute(1, 3, 0, 2)


def _bits_of(masks: Tensor) -> Tensor:
    """How many numbers of each input the masks ``[F / 16, D, T]`` keep: ``[F / 16, D]``."""
    counts = torch.zeros(masks.shape[:2], dtype=torch.int64, device=masks.device)
    for bit in range(LINE):
        counts += (masks >> bit & 1).sum(dim=2)
    return counts


def _offsets(masks: Tensor) -> Tensor:
    counts = _bits_of(masks)
    strips, D = counts.shape
    blocks = -(-D // INPUT_BLOCK)
    padded = torch.nn.functional.pad(counts, (0, blocks * INPUT_BLOCK - D))
    ends = padded.view(strips * blocks, INPUT_BLOCK).sum(dim=1).cumsum(dim=0)
    return torch.nn.functional.pad(ends, (1, 0))[:-1].view(strips, blocks)
