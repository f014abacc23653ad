"""Routers: who makes the routing weights lambda of theta_0 + sum_t lambda_t * tau_t.

Every router maps the hidden states that an MLP receives to routing weights [R, T]: one row for each sample (R = B), or
one row for all (R = 1). There is no softmax and no clamp: routing weights may be negative or above 1. The shapes and
the initial values are those of WEMoE (arXiv 2402.00433, section 3.2). A router that several blocks share (E-WEMoE,
arXiv 2410.21804) is one of the same, and may lie on another device than a block's hidden states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUTER_DEPTHS = (0, 1, 2)


def masked_mean(values: Tensor, token_mask: Tensor | None) -> Tensor:
    """Average over the tokens that may vote.

    Args:
        values: [B, N, H].
        token_mask: bool [B, N], or None where every token may vote.

    Returns:
        [B, H]; zeros for a sample without a single voting token.

    Raises:
        ValueError: the mask is of another batch or of another number of tokens.
    """
    if token_mask is None:
        return values.mean(dim=1)
    if token_mask.shape != values.shape[:2]:
        raise ValueError(
            f"token_mask must be [B, N] = {tuple(values.shape[:2])} like the hidden states; "
            f"found {tuple(token_mask.shape)}"
        )
    votes = token_mask.to(values)  # [B, N]
    shares = votes / votes.sum(dim=1, keepdim=True).clamp(min=1)
    return (shares.unsqueeze(1) @ values).squeeze(1)


def with_position(hidden_states: Tensor, position: tuple[float, ...]) -> Tensor:
    """Put the encoding of a block's place before the hidden states of each token.

    Args:
        hidden_states: [B, N, D].
        position: P numbers.

    Returns:
        [B, N, P + D], in fp32 or better.
    """
    encoding = torch.tensor(position, dtype=torch.float32, device=hidden_states.device)
    return torch.cat([encoding.expand(*hidden_states.shape[:2], -1), hidden_states], dim=-1)


class ConstantRouter(nn.Module):
    """Router depth 0: one learned routing weight per task, the same for every input.

    Args:
        num_tasks: T.
        init_lambda: the initial routing weight of every task.
    """

    def __init__(self, num_tasks: int, init_lambda: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_tasks,), float(init_lambda)))  # [T]

    def forward(self, hidden_states: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Return the routing weights [1, T], whatever the hidden states are."""
        return self.weight.unsqueeze(0)


class LinearRouter(nn.Module):
    """Router depth 1: r(h) = W h + b for every token, then the mean over the tokens.

    Args:
        hidden_size: D.
        num_tasks: T.
        init_lambda: the initial value of every entry of b; W starts at N(0, 0.01^2).
    """

    def __init__(self, hidden_size: int, num_tasks: int, init_lambda: float) -> None:
        super().__init__()
        self.fc = near_constant_linear(hidden_size, num_tasks, init_lambda)

    def forward(self, hidden_states: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Map hidden states [B, N, D] to routing weights [B, T]."""
        hidden_states = hidden_states.to(self.fc.weight.dtype)
        # the token mean commutes with the last linear map
        return self.fc(masked_mean(hidden_states, token_mask))  # type: ignore[no-any-return]


class MLPRouter(nn.Module):
    """Router depth 2: r(h) = W2 relu(W1 h + b1) + b2 for every token, then the mean over the tokens.

    Args:
        hidden_size: D, also the width of the hidden layer; both are 8 more where a block's place is read too.
        num_tasks: T.
        init_lambda: the initial value of every entry of b2; b1 starts at 0, W1 and W2 at N(0, 0.01^2).
    """

    def __init__(self, hidden_size: int, num_tasks: int, init_lambda: float) -> None:
        super().__init__()
        self.fc1 = near_constant_linear(hidden_size, hidden_size, 0.0)
        self.fc2 = near_constant_linear(hidden_size, num_tasks, init_lambda)

    def forward(self, hidden_states: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Map hidden states [B, N, D] to routing weights [B, T]."""
        features = F.relu(self.fc1(hidden_states.to(self.fc1.weight.dtype)))  # [B, N, D]
        # the token mean commutes with the last linear map, not with the ReLU
        return self.fc2(masked_mean(features, token_mask))  # type: ignore[no-any-return]


Router = ConstantRouter | LinearRouter | MLPRouter


def build_router(hidden_size: int, num_tasks: int, init_lambda: float, hidden_layers: int) -> Router:
    """Build the router of a published depth.

    Args:
        hidden_size: D, the width of the hidden states.
        num_tasks: T, the number of routing weights.
        init_lambda: the routing weight that every task starts near.
        hidden_layers: the depth, 0 (constant), 1 (linear) or 2 (one hidden layer with ReLU).

    Raises:
        ValueError: another depth, or no task.
    """
    if num_tasks < 1:
        raise ValueError(f"a router needs at least one task; found num_tasks = {num_tasks}")
    if hidden_layers == 0:
        return ConstantRouter(num_tasks, init_lambda)
    if hidden_layers == 1:
        return LinearRouter(hidden_size, num_tasks, init_lambda)
    if hidden_layers == 2:
        return MLPRouter(hidden_size, num_tasks, init_lambda)
    raise ValueError(f"router_hidden_layers must be one of {ROUTER_DEPTHS}; found {hidden_layers}")


def near_constant_linear(inputs: int, outputs: int, bias: float) -> nn.Linear:
    """Make a linear map of the published initial values: its outputs start near one bias."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.constant_(linear.bias, bias)
    return linear
