"""Models that a preference steers: whether one is such a model, and its preference for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

import wemoe
from wemoe.routed_classes import RoutedModule


def preference_tasks(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's tasks, in the order of its preference.

    Raises:
        TypeError: the model is not steered by a preference.
    """
    if not isinstance(model, RoutedModule) or model.routing_config.reads != "preference":
        found = f"method {model.routing_config.method!r}" if isinstance(model, RoutedModule) else type(model).__name__
        raise TypeError(f"model must be made by wemoe.upcycle(..., method='pwemoe'); found {found}")
    return tuple(model.routing_config.tasks)


@contextmanager
def restoring_preference(model: nn.Module) -> Iterator[None]:
    """Give a model the preference back that it has now, when the block ends."""
    before = wemoe.get_preference(model)
    try:
        yield
    finally:
        wemoe.set_preference(model, before)
