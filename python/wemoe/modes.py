"""Evaluation mode for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode and restore every submodule's own mode afterwards.

    A model that is in it already is left alone: setting a mode drops what a model keeps of its weights for inference.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        if any(module.training for module in model.modules()):
            model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
