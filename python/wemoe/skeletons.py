"""Skeletons: models with everything but the memory of their weights, which are on torch's meta device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.initialization import no_init_weights

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def without_weights() -> Iterator[None]:
    """Let models be made without memory for their weights, and torch's global generator stay as it is.

    Only `torch.empty` gives tensors on the meta device: buffers that are computed when a model is made (positions,
    rotary frequencies) keep their values.
    """
    with torch.random.fork_rng(devices=()), no_init_weights(), _EmptyOnMeta():
        yield


def skeleton_of(model: Model) -> Model:
    """Copy a model but for its parameters, which are on the meta device; parameters that were shared still are."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        hollow = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(hollow, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


class _EmptyOnMeta(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
