"""The routed methods by name: what their routers read, what each shares and prunes, told without torch.

- `wemoe`: a router for every MLP, whole task vectors (arXiv 2402.00433).
- `e_wemoe`: one router for all MLPs, and of each tensor of each task vector the entries of largest magnitude alone
  (arXiv 2410.21804).
- `pwemoe`: a router for every MLP, or for every attention and norm too, which reads the user's preference
  (arXiv 2406.09770).

What E-WEMoE chooses can be chosen for itself: a shared router beside whole task vectors, or pruned ones beside a router
for every MLP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Modules = Literal["mlp", "mlp+attention", "all"]

PREFERENCE_DEPTHS = (1, 2)
POSITION_WIDTH = 8  # of the encoding of a block's place, which a shared router may read before the hidden states


@dataclass(frozen=True)
class RoutedMethod:
    """What a routed model's routers read, what it shares and what it prunes.

    Attributes:
        reads: what a router reads, the `input` of its module or the user's `preference`.
        modules: which modules have a router: every `mlp`, every attention as well, or `all`, norms and the convolution
            that embeds patches among them.
        share_router: whether all MLPs have one router, which sees each block's own hidden states.
        prune_ratio: share of the entries of each tensor of each task vector that is removed.
        position_encoding: whether a shared router also reads which block is asking.
    """

    reads: Literal["input", "preference"] = "input"
    modules: Modules = "mlp"
    share_router: bool = False
    prune_ratio: float = 0.0
    position_encoding: bool = False

    @property
    def position_width(self) -> int:
        """By how much the router's input is wider than the hidden states."""
        return POSITION_WIDTH if self.position_encoding else 0

    def check(self, router_hidden_layers: int) -> None:
        """Check that the choices go together.

        Raises:
            ValueError: `prune_ratio` is not in [0, 1), or the place of a block is to be read by a router that is not
                shared, or that reads nothing; routers of another depth are to read a preference, or they are to be
                shared or their task vectors pruned; other modules than MLPs are to be routed by their input.
        """
        check_prune_ratio(self.prune_ratio)
        if self.modules not in get_args(Modules):
            raise ValueError(f"modules must be one of {', '.join(get_args(Modules))}; found {self.modules!r}")
        if self.reads == "preference":
            self._check_preference(router_hidden_layers)
        elif self.modules != "mlp":
            raise ValueError(
                f"modules must be 'mlp' where routers read their input, as method pwemoe's do not; found "
                f"{self.modules!r}"
            )
        if self.position_encoding and not (self.share_router and router_hidden_layers):
            raise ValueError(
                "position_encoding needs share_router=True and a router that reads its input (depth 1 or 2); "
                f"found share_router={self.share_router}, depth {router_hidden_layers}"
            )

    def _check_preference(self, router_hidden_layers: int) -> None:
        """Check what goes with routers that read a preference."""
        if router_hidden_layers not in PREFERENCE_DEPTHS:
            raise ValueError(
                f"router_hidden_layers must be 1 or 2 where routers read a preference; found {router_hidden_layers}"
            )
        if self.share_router or self.prune_ratio or self.position_encoding:
            raise ValueError(
                "share_router, prune_ratio and position_encoding are choices of routers that read their input, not of "
                f"method pwemoe's; found {self.share_router}, {self.prune_ratio}, {self.position_encoding}"
            )


ROUTED_METHODS: Mapping[str, RoutedMethod] = {
    "wemoe": RoutedMethod(),
    "e_wemoe": RoutedMethod(share_router=True, prune_ratio=0.9),
    "pwemoe": RoutedMethod(reads="preference"),
}


def choose(
    method: str,
    share_router: bool | None = None,
    prune_ratio: float | None = None,
    position_encoding: bool = False,
    modules: Modules = "mlp",
) -> RoutedMethod:
    """Return what a method's name stands for, but for what was chosen otherwise.

    Raises:
        ValueError: there is no such method.
    """
    if method not in ROUTED_METHODS:
        raise ValueError(f"method must be one of {', '.join(ROUTED_METHODS)}; found {method!r}")
    published = ROUTED_METHODS[method]
    return RoutedMethod(
        published.reads,
        modules,
        published.share_router if share_router is None else share_router,
        published.prune_ratio if prune_ratio is None else prune_ratio,
        position_encoding,
    )


def check_prune_ratio(ratio: float) -> None:
    """Check the share of entries to remove.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"prune_ratio must be in [0, 1); found {ratio}")


def kept_entries(size: int, ratio: float) -> int:
    """Return how many entries of a tensor pruning keeps.

    Those are kept that are larger than the quantile `ratio` of the magnitudes, linearly interpolated: of n entries
    without ties n - 1 - floor(ratio (n - 1)), so that at least one goes. A ratio of 0 keeps everything.

    Args:
        size: n.
        ratio: share to remove, taken as the decimal number that was written.
    """
    if not ratio or not size:
        return size
    return size - 1 - math.floor(Fraction(str(float(ratio))) * (size - 1))


def encode_position(index: int) -> tuple[float, ...]:
    """Return the sinusoids of a block's index: first sines, then cosines, of index / 10000^(2 i / width)."""
    half = POSITION_WIDTH // 2
    angles = [index / 10000 ** (2 * i / POSITION_WIDTH) for i in range(half)]
    return tuple(map(math.sin, angles)) + tuple(map(math.cos, angles))
