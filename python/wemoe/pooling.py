"""One feature vector of each sample, for linear heads to read: how a model's hidden states are pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from wemoe.data.batches import Batch
from wemoe.task_config import Pooling


def mean_features(model: nn.Module, batch: Batch) -> Tensor:
    """Mean of the last hidden states over each sample's tokens, padding left out [B, D]."""
    hidden: Tensor = model(**batch.inputs).last_hidden_state  # [B, N, D]
    if "attention_mask" not in batch.inputs:
        return hidden.mean(dim=1)
    mask = batch.inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def first_features(model: nn.Module, batch: Batch) -> Tensor:
    """The last hidden state of each sample's first token, padding left out [B, D]."""
    hidden: Tensor = model(**batch.inputs).last_hidden_state  # [B, N, D]
    if "attention_mask" not in batch.inputs:
        return hidden[:, 0]
    first = batch.inputs["attention_mask"].argmax(dim=1)  # [B]
    return hidden[torch.arange(len(first), device=hidden.device), first]


def pooler_features(model: nn.Module, batch: Batch) -> Tensor:
    """What the model's own pooler gives [B, D].

    Raises:
        ValueError: the model has none.
    """
    pooled = getattr(model(**batch.inputs), "pooler_output", None)
    if not isinstance(pooled, Tensor):
        raise ValueError(f"pooling 'pooler' needs a model with a pooler; {type(model).__name__} gave no pooled output")
    return pooled


POOLINGS: Mapping[Pooling, Callable[[nn.Module, Batch], Tensor]] = {
    "mean": mean_features,
    "cls": first_features,
    "pooler": pooler_features,
}
