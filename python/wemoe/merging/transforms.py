"""Transforms of task vectors: what is kept of a task vector before it is merged.

- `trim`: the entries of largest magnitude of a whole task vector, as TIES takes them (arXiv 2306.01708, section 4).
- `prune`: the same for one tensor, as E-WEMoE has it (arXiv 2410.21804).
- `drop`: entries chosen at random, the others rescaled, as DARE has it (arXiv 2311.03099, eq. 2-4).

Counts are exact: entries of equal magnitude at the threshold are kept in the order of the tensors until the count is
reached. Tensors may be of any size and dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from wemoe.routed_methods import check_prune_ratio, kept_entries
from wemoe.task_vectors import TaskVector

DIGIT = 16  # bits that one pass of the selection decides
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def check_density(density: float) -> None:
    """Check the share of entries to keep.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1]; found {density}")


def trim(task_vector: Mapping[str, Tensor], density: float) -> TaskVector:
    """Keep the entries of largest magnitude of a whole task vector, whichever tensor they are in.

    Args:
        task_vector: floating-point tensors by name, d entries in all.
        density: share to keep; int(density * d) entries are, and the others become zero.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    check_density(density)
    tensors = list(task_vector.values())
    kept = _share(density, sum(tensor.numel() for tensor in tensors))
    return dict(zip(task_vector, keep_largest(tensors, kept), strict=True))


def prune(tensor: Tensor, ratio: float) -> Tensor:
    """Zero the entries of smallest magnitude of one tensor.

    Args:
        tensor: one tensor of a task vector, n entries of any floating-point dtype.
        ratio: share to remove; n - 1 - floor(ratio * (n - 1)) entries are kept, and all of them at a ratio of 0
            (`wemoe.routed_methods.kept_entries`).

    Raises:
        ValueError: `ratio` is not in [0, 1).
    """
    check_prune_ratio(ratio)
    (pruned,) = keep_largest([tensor], kept_entries(tensor.numel(), ratio))
    return pruned


def drop(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep each entry with probability `density`, divided by it, so that the expectation is the tensor itself.

    Args:
        tensor: one tensor of a task vector.
        density: 1 - p, where p is DARE's drop rate.
        generator: of a CPU, whatever device the tensor is on, so that a seed means the same everywhere.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    check_density(density)
    kept = torch.rand(tensor.shape, generator=generator) < density
    return torch.where(kept.to(tensor.device), tensor / density, torch.zeros_like(tensor))


def seeded_generator(seed: int, *names: str) -> torch.Generator:
    """Return a generator for one thing out of many, whose numbers do not depend on what else is drawn."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def keep_largest(tensors: Sequence[Tensor], kept: int) -> list[Tensor]:
    """Zero all but the `kept` entries of largest magnitude of several tensors together.

    The threshold is found by its bits, which order magnitudes as integers are ordered: 16 of them in one pass over
    the tensors, by counting. Nothing is sorted or joined, so memory is that of one tensor.
    """
    if kept == 0:
        return [torch.zeros_like(tensor) for tensor in tensors]
    exact = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    threshold, at_threshold = _find_threshold(tensors, kept, exact)
    result = []
    for tensor in tensors:
        bits = _magnitude_bits(tensor, exact)
        equal = bits == threshold
        found = int(equal.sum())
        if found > at_threshold:
            equal &= equal.flatten().cumsum(0).view_as(equal) <= at_threshold
        at_threshold -= min(found, at_threshold)
        result.append(torch.where((bits > threshold) | equal, tensor, torch.zeros_like(tensor)))
    return result


def _find_threshold(tensors: Sequence[Tensor], kept: int, exact: torch.dtype) -> tuple[int, int]:
    """Return the magnitude, as bits, of the `kept`-th largest entry, and how many entries that equal it are kept."""
    threshold = 0
    for shift in range(torch.finfo(exact).bits - DIGIT, -1, -DIGIT):
        counts = torch.zeros(1 << DIGIT, dtype=torch.int64)
        for tensor in tensors:
            leading = _magnitude_bits(tensor, exact).flatten() >> shift
            digits = leading[(leading >> DIGIT) == threshold] & ((1 << DIGIT) - 1)
            counts += torch.bincount(digits, minlength=1 << DIGIT).cpu()
        at_least = counts.flip(0).cumsum(0)  # entries whose digit is one of the largest 1, 2, ...
        place = int(torch.searchsorted(at_least, kept))
        kept -= int(at_least[place - 1]) if place else 0
        threshold = threshold << DIGIT | ((1 << DIGIT) - 1 - place)
    return threshold, kept


def _magnitude_bits(tensor: Tensor, exact: torch.dtype) -> Tensor:
    return tensor.abs().to(exact).view(INTEGERS[exact])


def _share(ratio: float, size: int) -> int:
    """Return int(ratio * size) of the decimal number that was written: 0.29 of 100 is 29."""
    return int(Fraction(str(float(ratio))) * size)
