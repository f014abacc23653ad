"""Objectives of test-time adaptation: what unlabeled data can tell the routers.

An objective maps logits [S, C] in fp32, one row per sample (or per position that counts), and the class probabilities
[S, C] of the task's own expert to a scalar loss. Only `match` looks at the expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean Shannon entropy, in nats, of softmax(logits [S, C]); from log-softmax, hence exact."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def distribution_entropy(p: Tensor) -> Tensor:
    """Shannon entropy, in nats, of one class distribution p [C]: 0 when all is in one class."""
    return -torch.xlogy(p, p).sum()


def mean_distribution(logits: Tensor) -> Tensor:
    """Mean over the samples of softmax(logits [S, C]): the class distribution [C] that a model predicts."""
    return logits.softmax(dim=-1).mean(dim=0)


def entropy(logits: Tensor, expert: Tensor | None) -> Tensor:
    """Published objective: confident predictions (arXiv 2402.00433, eq. 7). May collapse onto one class."""
    return mean_entropy(logits)


def infomax(logits: Tensor, expert: Tensor | None) -> Tensor:
    """Confident for each sample, diverse over the batch (information maximisation, arXiv 2002.08546, eq. 3-4)."""
    return mean_entropy(logits) - distribution_entropy(mean_distribution(logits))


def match(logits: Tensor, expert: Tensor | None) -> Tensor:
    """Kullback-Leibler divergence of the predictions from the expert's own (distillation, arXiv 1503.02531)."""
    if expert is None:
        raise ValueError("objective 'match' needs the experts' predictions; found none")
    return (torch.xlogy(expert, expert) - expert * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


@dataclass(frozen=True)
class Objective:
    """A loss of (logits, expert's probabilities), and whether it needs the latter."""

    loss: Callable[[Tensor, Tensor | None], Tensor]
    needs_experts: bool


OBJECTIVES = {
    "match": Objective(match, needs_experts=True),
    "entropy": Objective(entropy, needs_experts=False),
    "infomax": Objective(infomax, needs_experts=False),
}
