"""Which tokens may vote on the routing weights.

A padded token must not vote. The upcycled block derives the token mask from its own attention mask and holds it for
the time of its forward (`TokenMask`); the routed MLP inside reads it (`current_token_mask`). The scope belongs to the
thread and ends with the block's forward, so that nothing is left behind between calls, recomputation under gradient
checkpointing sees the same mask, and `torch.compile` traces it without a graph break.
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch
from torch import Tensor


class _Scope(threading.local):
    mask: Tensor | None = None


_scope = _Scope()


class TokenMask:
    """Context in which routed MLPs average their routers over the tokens of a mask only.

    Args:
        mask: bool [B, N], true where a token may vote; None lets every token vote.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask
        self._outer: Tensor | None = None

    def __enter__(self) -> None:
        self._outer = _scope.mask
        _scope.mask = self._mask

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _scope.mask = self._outer


def current_token_mask() -> Tensor | None:
    """Return the mask [B, N] of the block that is running, or None where every token may vote."""
    return _scope.mask


def from_attention_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Read the token mask off the attention mask that a transformer block receives.

    The last query's row tells which keys are real tokens, whatever side is padded and whether attention is causal or
    not: a causal mask lets the last query see all of them.

    Args:
        attention_mask: None; [B, N] with non-zero at real tokens; or [B, 1 or heads, queries, N], either bool (true
            where attention is allowed) or additive (zero where allowed, hugely negative elsewhere).

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
        return attention_mask != 0
    if attention_mask.dim() == 4:
        row = attention_mask[:, 0, -1, :]  # [B, N]
        return row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
    raise ValueError(
        f"attention_mask must be [B, N] or [B, heads, queries, N]; found shape {tuple(attention_mask.shape)}"
    )
