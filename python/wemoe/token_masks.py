"""Which tokens may vote on the routing weights.

A padded token must not vote, in a model that writes only the prompt's tokens may, and a decoder that reads an encoder
is routed by its first token, which sees the whole input through cross-attention. So every token after those can be
decoded one by one with the routing weights that the full forward has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_LABEL = -100  # of positions without a loss, by transformers' convention


def from_attention_mask(attention_mask: Tensor | None, tokens: int) -> Tensor | None:
    """Read the real tokens off the attention mask that a transformer block receives.

    A token is real if any query may attend to it, whatever side is padded and whether attention is causal, within a
    window, or neither.

    Args:
        attention_mask: None; [B, N] with non-zero at real tokens; or [B, 1 or heads, queries, keys], either bool (true
            where attention is allowed) or additive (zero where allowed, hugely negative elsewhere). Keys after the
            first N are free places of a cache.
        tokens: N.

    Returns:
        bool [B, N], or None where there is no mask.

    Raises:
        TypeError: the mask is not a tensor (a FlexAttention block mask, say).
        ValueError: the mask has another number of dimensions.
    """
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor):
        raise TypeError(
            "attention_mask must be a tensor for token masks to be read off it; found "
            f"{type(attention_mask).__name__}. Load the base with attn_implementation='sdpa' or 'eager'."
        )
    if attention_mask.dim() == 2:
        return attention_mask[:, :tokens] != 0
    if attention_mask.dim() == 4:
        mask = attention_mask[:, 0, :, :tokens]  # [B, queries, N]
        allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        return allowed.any(dim=1)
    raise ValueError(
        f"attention_mask must be [B, N] or [B, heads, queries, keys]; found shape {tuple(attention_mask.shape)}"
    )


def first_token(real: Tensor) -> Tensor:
    """Keep the first of the real tokens bool [B, N] of each sample."""
    return real & (real.cumsum(dim=1) == 1)


def prompt_tokens(real: Tensor, prompt_mask: Tensor) -> Tensor:
    """Keep the real tokens that belong to the prompt; of a sample without any, its first real token.

    Args:
        real: bool [B, N].
        prompt_mask: bool [B, P], or [1, P] for all samples; tokens after the first P belong to no prompt.

    Raises:
        ValueError: the prompt mask is of another batch, or P is above N.
    """
    batch, tokens = real.shape
    if prompt_mask.dim() != 2 or prompt_mask.shape[0] not in (1, batch) or prompt_mask.shape[1] > tokens:
        raise ValueError(
            f"prompt_mask must be [B, P] with B = {batch} and P at most {tokens}; found {tuple(prompt_mask.shape)}"
        )
    prompt = real & F.pad(prompt_mask != 0, (0, tokens - prompt_mask.shape[1]))
    return prompt | (first_token(real) & ~prompt.any(dim=1, keepdim=True))


def prompt_before_labels(labels: Tensor) -> Tensor:
    """Mask the tokens [B, N] before a sample's first label: what a model has read when it starts to write.

    Args:
        labels: [B, N], -100 where there is no label; the label of a token is what the token before it predicts.
    """
    return (labels != IGNORED_LABEL).cumsum(dim=1) == 0
