"""Routers that read the user's preference instead of hidden states (PWEMoE, arXiv 2406.09770, section 4.2).

A preference says how much each task matters: a point r of the simplex, r_t >= 0 and sum_t r_t = 1. A router maps it to
routing weights lambda = router(r) of the same length, without softmax or clamp, so that the weights of its module are
theta_0 + sum_t lambda_t(r) tau_t for all inputs: what a preference asks for is one plain model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wemoe.routers import near_constant_linear


class Preference(nn.Module):
    """The preference that all routers of a model read, a buffer in fp32 whatever the model is converted to.

    Attributes:
        value: [T], or a preference for each sample [B, T]; equal weights at first.

    Args:
        num_tasks: T.
    """

    value: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.full((num_tasks,), 1 / num_tasks))

    def rows(self) -> Tensor:
        """Return the preference as [R, T], R = 1 or B."""
        return self.value if self.value.dim() == 2 else self.value.unsqueeze(0)

    def fits(self, value: Tensor) -> bool:
        """Whether a tensor has the shape of a preference: the number of rows may be another one."""
        return value.dim() in (1, 2) and value.shape[-1] == self.value.shape[-1]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        moved = fn(self.value)
        self.value = moved if moved.dtype == self.value.dtype else self.value.to(moved.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}value")
        if stored is not None and self.fits(stored):
            self.value = self.value.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class PreferenceRouter(nn.Module):
    """A router of depth 1, W r + b, or 2, W2 relu(W1 r + b1) + b2.

    The weights start at N(0, 0.01^2), so that every task's routing weight starts near the last bias, `init_lambda`.

    Args:
        preference: that of the model.
        num_tasks: T; a hidden layer is 2 T wide.
        init_lambda: the initial value of every entry of the last bias; b1 starts at 0.
        hidden_layers: the depth.
    """

    def __init__(self, preference: Preference, num_tasks: int, init_lambda: float, hidden_layers: int) -> None:
        super().__init__()
        self.preference = preference
        self.fc1 = near_constant_linear(num_tasks, 2 * num_tasks, 0.0) if hidden_layers == 2 else None
        self.fc2 = near_constant_linear(2 * num_tasks if self.fc1 else num_tasks, num_tasks, init_lambda)

    def forward(self) -> Tensor:
        """Return the routing weights [R, T] of the model's preference."""
        return self.routing_weights(self.preference.rows())

    def routing_weights(self, preferences: Tensor) -> Tensor:
        """Map preferences [R, T] to routing weights [R, T]."""
        rows = preferences.to(self.fc2.weight)
        return self.fc2(rows if self.fc1 is None else F.relu(self.fc1(rows)))  # type: ignore[no-any-return]
