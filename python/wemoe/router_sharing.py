"""Which router each MLP has: one of its own, or one for all of them (E-WEMoE, arXiv 2410.21804); and all of a model."""

from __future__ import annotations

from torch import nn

from wemoe.config import RoutingConfig
from wemoe.layers import RoutedMLP
from wemoe.mlps import MLPParts, linear_sizes
from wemoe.preference_layers import PreferenceLayer
from wemoe.routed_methods import POSITION_WIDTH, encode_position
from wemoe.routers import Router, build_router


class Routers:
    """The routers of a model's MLPs, one after the other: one for each, or one that all of them share.

    Args:
        config: how the model is upcycled.
    """

    def __init__(self, config: RoutingConfig) -> None:
        self._config = config
        self._index = 0
        self._shared: tuple[Router, int, str] | None = None  # with the width of the first block, and its path

    def next(self, path: str, base: MLPParts) -> tuple[Router, tuple[float, ...] | None]:
        """Return the router of the next block, and the encoding of its place if the router reads it.

        Raises:
            ValueError: blocks that are to share a router differ in width.
        """
        width, _ = linear_sizes(base.up)
        position = encode_position(self._index) if self._config.position_encoding else None
        self._index += 1
        if not self._config.share_router:
            return self._make(width, base), position
        self._shared = self._shared or (self._make(width, base), width, path)
        router, expected, first = self._shared
        if width != expected:
            raise ValueError(
                f"share_router needs blocks of one width; found {expected} in {first!r} and {width} in {path!r}"
            )
        return router, position

    def _make(self, width: int, base: MLPParts) -> Router:
        config = self._config
        if config.position_encoding:
            width += POSITION_WIDTH
        router = build_router(width, len(config.tasks), config.init_lambda, config.router_hidden_layers)
        return router.to(base.up.weight.device)


def routers_of(model: nn.Module) -> list[nn.Module]:
    """Return the routers of a model, each once."""
    layers = (module for module in model.modules() if isinstance(module, RoutedMLP | PreferenceLayer))
    return list({id(layer.router): layer.router for layer in layers}.values())
