"""Experts off their distribution: predictions that gather in few classes, spread again by what is known of the classes.

On inputs that are corrupted alike, all of them lower in contrast say, an expert may still tell samples apart while its
predictions slide into one class. `match` would teach that. Aligning the mean distribution with known shares (arXiv
1911.09785, section 3.1) brings such experts back, but where they were right, and the shares of the new inputs merely
are others, it harms them. So shares are held within bounds here, and nothing changes inside of them.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

ROUNDS = 1000
CLOSE = 1e-3  # of a share, relative to its bound


def hold_class_shares(logits: Tensor, shares: Tensor, tolerance: float = 1.5) -> Tensor:
    """Shift an expert's logits, one number a class, until no class is predicted implausibly often or seldom.

    Afterwards each class's mean probability is between its share divided by `tolerance` and its share times that, to a
    thousandth of these. Where logits are so far apart that single samples decide, it comes as near as it can and warns.

    Args:
        logits: of an expert on all unlabeled samples of its task [S, C]; it is not changed.
        shares: how often each class is expected [C], in training data say, as counts or probabilities; above 0.
        tolerance: above 1; the less, the more the shares are trusted.

    Returns:
        The logits [S, C] in their dtype: the very same where all classes are within their bounds.

    Raises:
        ValueError: shapes do not fit, a share is not above 0, `tolerance` is not above 1, or a number is not finite.
    """
    _check(logits, shares, tolerance)
    expected = shares.to(logits.device, torch.float64)
    middle = (expected / expected.sum()).log()
    least, most = middle - math.log(tolerance), middle + math.log(tolerance)
    exact = logits.to(torch.float64)
    shift = torch.zeros_like(middle)  # [C]
    for _ in range(ROUNDS):
        found = (exact + shift).log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(exact))  # log of mean probability
        missing = found.clamp(least, most) - found
        if missing.abs().max() <= CLOSE:
            break
        shift = shift + missing
    else:
        warnings.warn(
            f"a class is {float(missing.abs().max().exp()):.3g} times beyond its bounds after {ROUNDS} rounds; "
            f"logits are up to {float((exact.amax(-1) - exact.amin(-1)).max()):.3g} apart",
            stacklevel=2,
        )
    return (exact + shift).to(logits.dtype) if shift.any() else logits


def _check(logits: Tensor, shares: Tensor, tolerance: float) -> None:
    if logits.ndim != 2 or not logits.numel() or shares.shape != logits.shape[1:]:
        raise ValueError(
            "logits must be [S, C] of one sample or more, and shares [C]; "
            f"found {list(logits.shape)} and {list(shares.shape)}"
        )
    if not logits.isfinite().all():
        raise ValueError("logits must be finite; found some that are not")
    if not (shares.isfinite().all() and (shares > 0).all()):
        raise ValueError(f"shares must be above 0 and finite; found {shares.tolist()}")
    if not 1 < tolerance < math.inf:
        raise ValueError(f"tolerance must be above 1 and finite; found {tolerance}")
