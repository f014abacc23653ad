"""Routing weights that travel with a cache of keys and values.

A model that writes token by token is routed by its prompt. The routing weights of the prompt are kept with the cache
that the prompt's keys and values are in, and are reordered, repeated, cleared and copied with them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache

from wemoe.specialising import Specialised, specialise


class RoutedCache(Specialised):
    """A cache of keys and values that keeps the routing weights of its prompt, [R, T] by block."""

    routing_weights: dict[str, Tensor]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let sample b go on as the sample beam_idx[b]."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the samples of given indices."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        for block, weights in self.routing_weights.items():
            self.routing_weights[block] = weights if len(weights) == 1 else weights.repeat_interleave(repeats, dim=0)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()  # type: ignore[misc]
        self.routing_weights.clear()

    def _select(self, indices: Tensor) -> None:
        for block, weights in self.routing_weights.items():
            if len(weights) > 1:  # a single row serves every sample
                self.routing_weights[block] = weights.index_select(0, indices.to(weights.device))


def keep_routing(cache: Cache) -> dict[str, Tensor]:
    """Return the routing weights by block that a cache keeps; from now on they go where its samples go.

    The cache becomes a `RoutedCache` in place, except while `torch.compile` traces, which cannot: then the next call
    outside does it.

    Raises:
        ValueError: the cache holds tokens that another model read, so that nothing tells how to route.
    """
    if not isinstance(cache, RoutedCache) and not torch.compiler.is_compiling():
        tokens = int(cache.get_seq_length())
        if tokens and not hasattr(cache, "routing_weights"):
            raise ValueError(
                "past_key_values must be empty or come from a routed model, which keeps its prompt's routing weights "
                f"there; found {tokens} tokens and no routing weights"
            )
        cache.__class__ = cast("Any", specialise(type(cache), RoutedCache))
    routed = cast("RoutedCache", cache)
    if not hasattr(routed, "routing_weights"):
        routed.routing_weights = {}
    return routed.routing_weights
