"""Transforms of task vectors: what is kept of a task vector before it is merged.

- `trim`: the entries of largest magnitude of a whole task vector, as TIES takes them (arXiv 2306.01708, section 4);
  `find_cuts` and `Keeper` do the same for one that is read in pieces.
- `prune`: the same for one tensor, as E-WEMoE has it (arXiv 2410.21804).
- `drop`: entries chosen at random, the others rescaled, as DARE has it (arXiv 2311.03099, eq. 2-4).

Counts are exact: entries of equal magnitude at the threshold are kept in the order of the tensors until the count is
reached. Tensors may be of any size and dtype, and may come a few rows at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from wemoe.routed_methods import check_prune_ratio, kept_entries

DIGIT = 16  # bits that one pass of the selection decides
Group = TypeVar("Group", bound=Hashable)
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def check_density(density: float) -> None:
    """Check the share of entries to keep.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1]; found {density}")


def trim(task_vector: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Keep the entries of largest magnitude of a whole task vector, whichever tensor they are in.

    Args:
        task_vector: floating-point tensors by name, d entries in all.
        density: share to keep; int(density * d) entries are, and the others become zero.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    check_density(density)
    tensors = list(task_vector.values())
    kept = share_of(density, sum(tensor.numel() for tensor in tensors))
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


def drop(tensor: Tensor, density: float, generator: torch.Generator, rescale: bool = True) -> Tensor:
    """Keep each entry with probability `density`, divided by it, so that the expectation is the tensor itself.

    The rows of a tensor that are dropped one after the other, by one generator, are those of the whole tensor.

    Args:
        tensor: one tensor of a task vector.
        density: 1 - p, where p is DARE's drop rate.
        generator: of a CPU, whatever device the tensor is on, so that a seed means the same everywhere.
        rescale: whether to divide what is kept.

    Raises:
        ValueError: `density` is not in (0, 1].
    """
    check_density(density)
    kept = torch.rand(tensor.shape, generator=generator) < density
    return (tensor / density if rescale else tensor) * kept.to(tensor.device)


def seeded_generator(seed: int, *names: str) -> torch.Generator:
    """Return a generator for one thing out of many, whose numbers do not depend on what else is drawn."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@dataclass(frozen=True)
class Cut:
    """Where the largest entries of several tensors end.

    Attributes:
        threshold: the smallest magnitude that is kept, as bits.
        equal: how many entries of just that magnitude are kept.
        found: how many there are.
        dtype: whose bits they are.
    """

    threshold: int
    equal: int
    found: int
    dtype: torch.dtype


class Keeper:
    """What zeroes all but the largest entries of tensors, or of their rows, that come in order.

    Args:
        cut: where the largest entries end.
        equal: how many entries that equal the threshold are kept of the tensors to come.
    """

    def __init__(self, cut: Cut, equal: int) -> None:
        self._cut = cut
        self._equal = equal

    def keep(self, tensor: Tensor) -> Tensor:
        """Zero what is smaller, and what equals the threshold once the count is reached."""
        bits = _magnitude_bits(tensor, self._cut.dtype)
        if self._cut.found == self._cut.equal:
            return tensor * (bits >= self._cut.threshold)  # five times as fast as `where`
        equal = bits == self._cut.threshold
        found = int(equal.sum())
        if found > self._equal:
            equal &= equal.flatten().cumsum(0).view_as(equal) <= self._equal
        self._equal -= min(found, self._equal)
        return tensor * ((bits > self._cut.threshold) | equal)


def keep_largest(tensors: Sequence[Tensor], kept: int) -> list[Tensor]:
    """Zero all but the `kept` entries of largest magnitude of several tensors together.

    Memory is that of one tensor, beside the result.
    """
    dtype = widest(tensors)
    cut = find_cuts(lambda: ((None, tensor) for tensor in tensors), {None: kept}, dtype)[None]
    keeper = Keeper(cut, cut.equal)
    return [keeper.keep(tensor) for tensor in tensors]


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the dtype in which magnitudes of tensors are compared: fp64 where one of them is."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def find_cuts(
    read: Callable[[], Iterable[tuple[Group, Tensor]]], kept: Mapping[Group, int], dtype: torch.dtype
) -> dict[Group, Cut]:
    """Find where the largest entries of groups of tensors end.

    A threshold is found by its bits, which order magnitudes as integers are ordered: 16 of them in one pass over the
    tensors, by counting. Nothing is sorted or joined.

    Args:
        read: gives every tensor of every group, or all rows of them, with the group that it is of; called once for a
            pass.
        kept: by group, how many entries are to be kept.
        dtype: in which magnitudes are compared.
    """
    thresholds, left, found = dict.fromkeys(kept, 0), dict(kept), dict.fromkeys(kept, 0)
    for shift in range(torch.finfo(dtype).bits - DIGIT, -1, -DIGIT):
        counts = {group: torch.zeros(1 << DIGIT, dtype=torch.int64) for group in kept}
        for group, tensor in read():
            leading = _magnitude_bits(tensor, dtype).flatten() >> shift
            digits = leading[(leading >> DIGIT) == thresholds[group]] & ((1 << DIGIT) - 1)
            counts[group] += torch.bincount(digits, minlength=1 << DIGIT).cpu()
        for group, count in counts.items():
            at_least = count.flip(0).cumsum(0)  # entries whose digit is one of the largest 1, 2, ...
            place = int(torch.searchsorted(at_least, left[group]))
            left[group] -= int(at_least[place - 1]) if place else 0
            digit = (1 << DIGIT) - 1 - place
            thresholds[group] = thresholds[group] << DIGIT | digit
            found[group] = int(count[digit])
    nothing = torch.iinfo(INTEGERS[dtype]).max  # larger than any magnitude
    return {
        group: Cut(thresholds[group], left[group], found[group], dtype) if kept[group] else Cut(nothing, 0, 0, dtype)
        for group in kept
    }


def count_equal(tensor: Tensor, cut: Cut) -> int:
    """Count the entries that equal a cut's threshold."""
    return int((_magnitude_bits(tensor, cut.dtype) == cut.threshold).sum())


def _magnitude_bits(tensor: Tensor, exact: torch.dtype) -> Tensor:
    return tensor.abs().to(exact).view(INTEGERS[exact])


def share_of(ratio: float, size: int) -> int:
    """Return int(ratio * size) of the decimal number that was written: 0.29 of 100 is 29."""
    return int(Fraction(str(float(ratio))) * size)
