"""Preferences on the simplex: random rays for training, regular grids for fronts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-6  # of every entry of a random ray: a small concentration gives exact zeros in fp32


def sample_ray(tasks: int, concentration: float, generator: torch.Generator) -> Tensor:
    """Draw a preference from the symmetric Dirichlet distribution (arXiv 2406.09770, section 3.3).

    Args:
        tasks: T, the number of objectives.
        concentration: of the distribution: 1 is uniform on the simplex, less prefers its corners, more its middle.
        generator: what decides the ray, and the only thing; it moves on.

    Returns:
        The ray [T] in fp32, which sums to 1 and of which no entry is below 1e-6.

    Raises:
        ValueError: `tasks` is below 1, or `concentration` is not positive and finite.
    """
    _check_tasks(tasks)
    if not (math.isfinite(concentration) and concentration > 0):
        raise ValueError(f"concentration must be positive and finite; found {concentration}")
    # torch's own Dirichlet distribution takes no generator
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
    ray = np.random.default_rng(int(seed)).dirichlet(np.full(tasks, concentration))
    return torch.from_numpy(LEAST + (1 - tasks * LEAST) * ray).float()


def simplex_grid(tasks: int, points: int) -> Tensor:
    """Return a regular grid of preferences, corners included.

    With M = points - 1, these are all rows of multiples of 1/M that sum to 1: C(M + T - 1, T - 1) of them, in
    lexicographic order, so that (0, ..., 0, 1) is first and (1, 0, ..., 0) last. Two points give the corners alone.

    Args:
        tasks: T, the number of objectives.
        points: along each edge of the simplex, both corners included.

    Returns:
        The preferences [K, T] in fp32.

    Raises:
        ValueError: `tasks` is below 1, or `points` below 2.
    """
    _check_tasks(tasks)
    if points < 2:
        raise ValueError(f"points must be at least 2, the corners at both ends of an edge; found {points}")
    last = points - 1
    bars = itertools.combinations_with_replacement(range(points), tasks - 1)
    shares = [[right - left for left, right in itertools.pairwise((0, *places, last))] for places in bars]
    return torch.tensor(shares, dtype=torch.float64).div(last).float()


def equal_weights(tasks: int) -> Tensor:
    """Return the preference [T] in fp32 of which every entry is 1/T.

    Raises:
        ValueError: `tasks` is below 1.
    """
    _check_tasks(tasks)
    return torch.full((tasks,), 1 / tasks)


def _check_tasks(tasks: int) -> None:
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1; found {tasks}")
