"""How the losses of one step become one direction: the weights of their gradients, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from wemoe.pareto.epo import EPO


class Scalarization(Protocol):
    """Weights of the losses, which make the step's gradient `weights @ jacobian`."""

    def __call__(self, losses: Tensor, gram: Tensor, ray: Tensor) -> Tensor:
        """Return the weights [T], without gradients.

        Args:
            losses: [T].
            gram: [T, T], the inner products of the losses' gradients.
            ray: [T], the preference.
        """


class LinearScalarization:
    """The ray itself: sum_j r_j l_j is minimised, which finds the convex part of a front."""

    def __call__(self, losses: Tensor, gram: Tensor, ray: Tensor) -> Tensor:
        """Return the ray [T], whatever the losses and the Gram matrix."""
        return ray.to(losses)


SCALARIZATIONS: Mapping[str, Callable[[], Scalarization]] = MappingProxyType(
    {"ls": LinearScalarization, "epo": EPO}  # made anew for each training
)
