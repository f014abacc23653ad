"""Exact Pareto optimality: weights of the losses that lead to the point of the front on a preference's ray.

Mahapatra and Rajan, "Multi-task learning with user preferences", ICML 2020; as used by arXiv 2406.09770.
"""

from __future__ import annotations

import logging
from collections import Counter

import torch
from torch import Tensor

from wemoe.pareto.epo_programs import (
    LinearProgram,
    UnsolvedError,
    balance_program,
    relaxed_descent_program,
    restricted_descent_program,
)
from wemoe.pareto.metrics import check_losses_and_ray, divergence_from_equal, weighted_shares

logger = logging.getLogger(__name__)

BALANCED = 1e-4  # non-uniformity up to which losses count as on the ray
LEAST_SHARE = 1e-12  # of r_j l_j in their sum: what a loss of 0 counts as, so that its logarithm is finite


class EPO:
    """Weights of the losses by EPO: first onto the ray, then down along it.

    Losses l are on the ray r where all r_j l_j are equal. Away from it (balance mode) the step is the one that most
    reduces their non-uniformity, and losses that are small for their ray may rise; on it (descent mode) all losses
    fall. Either is a linear program over the simplex in T variables, solved by SciPy's HiGHS.

    An objective with r_j = 0 counts nothing: its weight is 0 and the program is that of the others, so that a corner
    of the simplex is the minimum of one loss. A loss of 0 is at its minimum: its gradient vanishes faster than the
    logarithm of its share grows, and drops out of the program whatever the share is taken for.

    Args:
        balanced: non-uniformity up to which losses count as on the ray.

    Attributes:
        modes: how often each mode was taken: `balance`, `descent`, or `stationary`, where all gradients that count
            are 0, so that any weights give the same step; those of the ray are taken.
        fallbacks: by reason ("balance: infeasible"), how often a program was not solved. After `restricted descent`
            the relaxed one is solved, without the bound that keeps to the ray; after any other the weights are those
            of linear scalarisation. Each is logged as a warning.
    """

    def __init__(self, balanced: float = BALANCED) -> None:
        self.balanced = balanced
        self.modes: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()

    def __call__(self, losses: Tensor, gram: Tensor, ray: Tensor) -> Tensor:
        """Return the weights of the losses.

        Args:
            losses: [T], not negative.
            gram: [T, T], the inner products of the losses' gradients.
            ray: [T], the preference.

        Returns:
            Weights [T] that sum to T, as published, of the type and on the device of `losses`.

        Raises:
            ValueError: the shapes do not fit, a number is not finite, a loss or an entry of the ray is negative, or
                the ray is all 0.
        """
        check_losses_and_ray(losses, ray)
        _check_gram(gram, len(losses))
        loss, inner, share = (tensor.detach().cpu().double() for tensor in (losses, gram, ray))
        counted = share > 0
        weights = torch.zeros_like(share)
        weights[counted] = len(losses) * self._solve(loss[counted], inner[counted][:, counted], share[counted])
        return weights.to(losses)

    def _solve(self, losses: Tensor, gram: Tensor, ray: Tensor) -> Tensor:
        """Return weights on the simplex [T], of objectives that all count."""
        linear = ray / ray.sum()
        if not gram.any():
            self.modes["stationary"] += 1
            return linear
        for name, program in self._programs(losses, gram, ray):
            try:
                return program.solve()
            except UnsolvedError as error:
                reason = f"{name}: {error}"
                self.fallbacks[reason] += 1
                logger.warning("EPO takes a simpler step, its linear program was not solved: %s", reason)
        return linear

    def _programs(self, losses: Tensor, gram: Tensor, ray: Tensor) -> list[tuple[str, LinearProgram]]:
        """Return the program of the mode, and what to solve if it cannot be."""
        shares = weighted_shares(losses, ray).clamp(min=LEAST_SHARE)
        shares = shares / shares.sum()
        distance = divergence_from_equal(shares)
        change = gram @ (ray * ((len(ray) * shares).log() - distance))  # [T], of the losses along the anchor
        if distance > self.balanced:
            self.modes["balance"] += 1
            return [("balance", balance_program(gram, change, shares))]
        self.modes["descent"] += 1
        return [
            ("restricted descent", restricted_descent_program(gram, change)),
            ("relaxed descent", relaxed_descent_program(gram)),
        ]


def _check_gram(gram: Tensor, tasks: int) -> None:
    if gram.shape != (tasks, tasks):
        raise ValueError(f"gram must be [T, T] for {tasks} losses; found shape {tuple(gram.shape)}")
    if not gram.isfinite().all():
        raise ValueError(f"gram must hold finite numbers; found {gram.tolist()}")
