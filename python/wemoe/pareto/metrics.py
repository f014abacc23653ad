"""What is measured of a front: how much it dominates, how well it meets its rays, how well preferences steer it."""

from __future__ import annotations

import moocore
import torch
from scipy.stats import spearmanr
from torch import Tensor


def hypervolume(points: Tensor, reference: Tensor, maximise: bool) -> float:
    """Return the volume that points dominate, up to a reference point; exact, by moocore.

    Args:
        points: [K, T]. Points that are not better than the reference in every objective add nothing.
        reference: [T], the corner up to which volume is counted, worse than what is to count: the losses of the
            pre-trained model, say, or 0 for accuracies.
        maximise: whether more is better (accuracies) or less (losses).

    Raises:
        ValueError: the shapes do not fit, or a number is not finite.
    """
    _check_table("points", points)
    if reference.shape != points.shape[1:]:
        raise ValueError(
            f"reference must hold one number for each of {points.shape[1]} objectives; "
            f"found shape {tuple(reference.shape)}"
        )
    if not reference.isfinite().all():
        raise ValueError(f"reference must hold finite numbers; found {reference.tolist()}")
    return float(moocore.hypervolume(_numbers(points), ref=_numbers(reference), maximise=maximise))


def non_dominated(points: Tensor, maximise: bool) -> Tensor:
    """Tell which points [K, T] no other point dominates; of equal points, all or none.

    Returns:
        bool [K].

    Raises:
        ValueError: `points` is no table of finite numbers.
    """
    _check_table("points", points)
    return torch.from_numpy(moocore.is_nondominated(_numbers(points), maximise=maximise, keep_weakly=True))


def weighted_shares(losses: Tensor, ray: Tensor) -> Tensor:
    """Return r_j l_j over their sum, [T] in fp64; all equal where every loss is 0, which lies on every ray."""
    weighted = (ray * losses).double()
    total = weighted.sum()
    return weighted / total if total > 0 else torch.full_like(weighted, 1 / len(weighted))


def non_uniformity(losses: Tensor, ray: Tensor) -> float:
    """Return how far losses are from the ray: the Kullback-Leibler divergence of r_j l_j / sum from equal shares.

    It is 0 where all r_j l_j are equal, which is what exact Pareto optimality asks for (Mahapatra and Rajan 2020).
    An objective that counts nothing (r_j = 0) is left out, and the shares of the others are compared.

    Args:
        losses: [T], not negative.
        ray: [T], a preference.

    Raises:
        ValueError: a loss is negative or not finite, an entry of the ray is, or the ray is all 0.
    """
    check_losses_and_ray(losses, ray)
    counted = ray > 0
    return divergence_from_equal(weighted_shares(losses[counted], ray[counted]))


def divergence_from_equal(shares: Tensor) -> float:
    """Return the Kullback-Leibler divergence of shares [T], which sum to 1, from equal ones; in nats."""
    divergence = torch.special.xlogy(shares, len(shares) * shares).sum()  # a share of 0 adds 0
    return float(divergence.clamp(min=0))  # rounding may leave -1e-17


def controllability(preferences: Tensor, scores: Tensor) -> list[float]:
    """Return, of each task, how well its score follows its preference: Spearman's rank correlation, by SciPy.

    Args:
        preferences: [K, T].
        scores: [K, T], the higher the better: accuracies, or negated losses.

    Returns:
        One number in [-1, 1] for each of T tasks. Where a column is constant, of preferences or of scores, ranks say
        nothing, and the number is 0: no control was seen.

    Raises:
        ValueError: the shapes differ, there are fewer than two points, or a number is not finite.
    """
    _check_table("preferences", preferences)
    _check_table("scores", scores)
    if scores.shape != preferences.shape:
        raise ValueError(
            f"scores must have the shape of preferences, {tuple(preferences.shape)}; found {tuple(scores.shape)}"
        )
    if len(preferences) < 2:
        raise ValueError(f"preferences must hold at least 2 points to correlate; found {len(preferences)}")
    pairs = zip(preferences.T, scores.T, strict=True)
    return [_rank_correlation(preference, score) for preference, score in pairs]


def check_losses_and_ray(losses: Tensor, ray: Tensor) -> None:
    """Raise a ValueError unless both are [T], finite and not negative, and the ray is not all 0."""
    if losses.dim() != 1 or ray.shape != losses.shape:
        raise ValueError(f"losses and ray must both be [T]; found shapes {tuple(losses.shape)} and {tuple(ray.shape)}")
    for name, numbers in (("losses", losses), ("ray", ray)):
        if not (numbers.isfinite() & (numbers >= 0)).all():
            raise ValueError(f"{name} must be finite and not negative; found {numbers.tolist()}")
    if not ray.any():
        raise ValueError(f"ray must have an entry above 0; found {ray.tolist()}")


def _rank_correlation(preference: Tensor, score: Tensor) -> float:
    if preference.min() == preference.max() or score.min() == score.max():
        return 0.0
    return float(spearmanr(_numbers(preference), _numbers(score)).statistic)


def _check_table(name: str, table: Tensor) -> None:
    if table.dim() != 2 or table.numel() == 0:
        raise ValueError(f"{name} must be [K, T] with at least one point; found shape {tuple(table.shape)}")
    if not table.isfinite().all():
        raise ValueError(f"{name} must hold finite numbers; found {table[~table.isfinite()][0].item()}")


def _numbers(tensor: Tensor) -> object:
    return tensor.detach().cpu().double().numpy()
