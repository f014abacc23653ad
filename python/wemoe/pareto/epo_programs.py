"""The linear programs of EPO, over weights of losses on the simplex.

C [T, T] is the Gram matrix of the losses' gradients: a step with weights w lowers loss j by (C w)_j to first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linprog
from torch import Tensor

ROUNDING = 1e-6  # of |g_i| |g_j|: how well a Gram matrix of fp32 gradients is known
REASONS = {1: "iteration limit", 2: "infeasible", 3: "unbounded", 4: "numerical difficulties"}  # SciPy's statuses


class UnsolvedError(ArithmeticError):
    """A linear program was not solved; the message says why."""


@dataclass(frozen=True)
class LinearProgram:
    """Maximise `objective` [T] over the simplex, where `rows` [K, T] give at least `least` [K]; all fp64 on the CPU."""

    objective: Tensor
    rows: Tensor
    least: Tensor

    def solve(self) -> Tensor:
        """Return the weights [T], by HiGHS.

        Raises:
            UnsolvedError: there are none, or they were not found.
        """
        tasks = len(self.objective)
        solution = linprog(
            -self.objective.numpy(),
            A_ub=-self.rows.numpy(),
            b_ub=-self.least.numpy(),
            A_eq=[[1.0] * tasks],
            b_eq=[1.0],
            bounds=(0, 1),
            method="highs",
        )
        if solution.status != 0:
            raise UnsolvedError(REASONS[solution.status])
        weights = torch.from_numpy(solution.x).clamp(min=0)
        return weights / weights.sum()


def balance_program(gram: Tensor, change: Tensor, shares: Tensor) -> LinearProgram:
    """Make the program of balance mode: the step that goes with the anchor.

    A loss that the anchor lowers is free; another one may rise by as much as along the anchor; the one that is
    largest for its ray must not rise. Where the anchor lowers none, no loss may rise.

    Args:
        gram: C.
        change: C a [T], by how much the anchor a lowers each loss.
        shares: r_j l_j over their sum, [T].
    """
    free = change > 0
    least = torch.where(free, -torch.inf, change) if free.any() else torch.zeros_like(change)
    least = torch.where(shares == shares.max(), 0.0, least)
    return _scaled(change, gram, least, _sizes(gram))


def restricted_descent_program(gram: Tensor, change: Tensor) -> LinearProgram:
    """Make the program of descent mode: all losses fall, by as much as they can without leaving the ray.

    Args:
        gram: C.
        change: C a [T], by how much the anchor a lowers each loss. With three objectives or more there may be no
            such step; the relaxed program then has one.
    """
    rows = torch.cat([gram, change[None]])
    least = torch.cat([torch.zeros_like(change), change.max().clamp(max=0)[None]])
    return _scaled(gram.sum(dim=0), rows, least, torch.cat([_sizes(gram), change.abs().max()[None]]))


def relaxed_descent_program(gram: Tensor) -> LinearProgram:
    """Make the program of the steepest descent of all losses, C [T, T]'s alone; the ray does not matter."""
    return _scaled(gram.sum(dim=0), gram, gram.new_zeros(len(gram)), _sizes(gram))


def _sizes(gram: Tensor) -> Tensor:
    """Return |g_j| max |g| [T], which no entry of row j exceeds."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    return norms * norms.max()


def _scaled(objective: Tensor, rows: Tensor, least: Tensor, sizes: Tensor) -> LinearProgram:
    """Divide each row by its size and leave out what bounds nothing: rows without a bound, and rows of zeros.

    HiGHS's tolerances are absolute: unscaled, the small gradients of late steps would bind nothing.
    """
    bounded = least.isfinite() & (sizes > 0)
    sizes = sizes[bounded]
    largest = objective.abs().max()
    return LinearProgram(
        objective / largest if largest > 0 else objective,
        rows[bounded] / sizes[:, None],
        least[bounded] / sizes - ROUNDING,
    )
