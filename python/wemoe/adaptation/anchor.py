"""Experts off their distribution: their answers, mixed with those of the merge that adaptation starts at.

On noisy inputs one expert errs more than what all of them have in common, and `match` would teach its errors. The
geometric mean of two models' probabilities (a logarithmic opinion pool, Genest and Zidek 1986) follows whichever of
them is surer, and agrees with both where they agree.
"""

from __future__ import annotations

from torch import Tensor


def anchor_to_start(logits: Tensor, start: Tensor, share: float = 0.35) -> Tensor:
    """Mix an expert's answers with those of the model that adaptation starts at.

    Of all distributions p the softmax of what is returned has the least (1 - share) KL(p, expert) + share KL(p, start).

    Args:
        logits: of an expert on unlabeled samples of its task [S, C]; it is not changed.
        start: on the same samples, of the model before it adapts, or of a static merge [S, C]; it is not changed.
        share: what part the start has, from 0 to below 1.

    Returns:
        Logits [S, C] in the expert's dtype: log-probabilities up to a constant of each sample.

    Raises:
        ValueError: shapes differ, `share` is out of range, or a number is not finite.
    """
    if logits.ndim != 2 or start.shape != logits.shape:
        raise ValueError(f"logits and start must both be [S, C]; found {list(logits.shape)} and {list(start.shape)}")
    if not (logits.isfinite().all() and start.isfinite().all()):
        raise ValueError("logits and start must be finite; found numbers that are not")
    if not 0 <= share < 1:
        raise ValueError(f"share must be from 0 to below 1; found {share}")
    return ((1 - share) * logits.double() + share * start.to(logits.device).double()).to(logits.dtype)
