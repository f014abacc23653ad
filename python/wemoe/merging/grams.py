"""Gram matrices of what linear maps receive: X^T X over the rows of their inputs, padded tokens left out.

A row is padding where the model's own `attention_mask` [B, N] is 0. Which mask an input [B, N, D] goes by is told by
the module around it that was called with one: a decoder has its own, reads hidden states of the encoder by the
encoder's, and what reads images has none.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass
class Gram:
    """X^T X [D, D] in fp64, and the number of rows of X; `matrix` is None as long as there are none."""

    matrix: Tensor | None = None
    rows: int = 0

    def add(self, x: Tensor) -> None:
        """Take the rows of x [S, D]."""
        if x.shape[0] == 0:
            return
        x = x.double()
        product = x.T @ x
        self.matrix = product if self.matrix is None else self.matrix + product
        self.rows += x.shape[0]

    def mean(self, alpha: float) -> Tensor:
        """Return X^T X / rows with everything off the diagonal scaled by alpha."""
        mean = cast("Tensor", self.matrix) / self.rows
        diagonal = torch.diag(mean.diagonal())
        return diagonal + alpha * (mean - diagonal)


def linear_weights(model: nn.Module) -> dict[str, bool]:
    """Find the weights of linear maps, by name, and whether they are stored transposed, [D, F].

    Linear layers, GPT-2's Conv1D and torch's own attention (its query, key and value maps in one, if the three have one
    width) are found. A weight that another module uses too, an embedding say, is none: it has other inputs as well.
    """
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    found = {}
    for path, module in model.named_modules():
        name = _weight_name(module)
        weight = getattr(module, name, None) if name else None
        if weight is not None and users[id(weight)] == 1:
            found[f"{path}.{name}" if path else name] = isinstance(module, Conv1D)
    return found


@contextmanager
def collecting_grams(model: nn.Module, weights: Mapping[str, bool]) -> Iterator[dict[str, Gram]]:
    """Collect the Gram matrices of linear maps while the model runs; no hook is left behind.

    Args:
        model: untouched, but for its hooks, which are removed at the end.
        weights: names of the maps' weights, as `linear_weights` finds them.

    Yields:
        By name, Gram matrices that grow with every forward.
    """
    grams = {name: Gram() for name in weights}
    masks = _Masks()
    with ExitStack() as stack:
        for path, module in model.named_modules():
            handles = masks.watch(module)
            name = _weight_name(module)
            gram = grams.get(f"{path}.{name}" if path else name)
            if isinstance(module, nn.MultiheadAttention):
                after = grams.get(f"{path}.out_proj.weight" if path else "out_proj.weight")
                handles.append(_watch_attention(module, gram, after, masks))
            elif gram is not None:
                handles.append(_watch_linear(module, gram, masks))
            for handle in handles:
                stack.callback(handle.remove)
        yield grams


def _weight_name(module: nn.Module) -> str:
    if isinstance(module, nn.MultiheadAttention):
        return "in_proj_weight"
    return "weight" if isinstance(module, nn.Linear | Conv1D) else ""


def _watch_linear(module: nn.Module, gram: Gram, masks: _Masks) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        gram.add(masks.real_rows(next(iter((*args, *kwargs.values())))))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _watch_attention(module: nn.MultiheadAttention, before: Gram | None, after: Gram | None, masks: _Masks) -> Any:
    """Watch what torch's own attention gives to its maps; it calls no module for them."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query, key, value = (_argument(module, name, args, kwargs) for name in ("query", "key", "value"))
        if before is not None and query is key and query is value:
            before.add(masks.real_rows(query))
        if after is not None:
            # with an identity for its last map, attention gives what that map receives
            probe = copy.deepcopy(cast("nn.MultiheadAttention", module)).requires_grad_(False)
            torch.nn.init.eye_(probe.out_proj.weight)
            if probe.out_proj.bias is not None:
                torch.nn.init.zeros_(probe.out_proj.bias)
            after.add(masks.real_rows(probe.forward(*args, **kwargs)[0]))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


class _Scope(NamedTuple):
    """The masks [B, N] of tokens, and of an encoder's hidden states, inside a module that is running."""

    tokens: Tensor | None = None
    encoder_states: Tensor | None = None
    encoder: Tensor | None = None


class _Masks:
    """Which rows of an input are real, by the masks that the running modules were called with."""

    def __init__(self) -> None:
        self._scopes = [_Scope()]

    def watch(self, module: nn.Module) -> list[Any]:
        """Register hooks on a module that may be called with masks, or with images."""
        parameters = inspect.signature(module.forward).parameters
        if not {"attention_mask", "pixel_values"} & parameters.keys():
            return []

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._scopes.append(_scope_of(module, args, kwargs) or self._scopes[-1])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._scopes.pop()

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        ]

    def real_rows(self, x: Tensor) -> Tensor:
        """Return the rows [S, D] of x [..., D] that are no padding; all of them where no mask fits."""
        scope = self._scopes[-1]
        mask = scope.encoder if x is scope.encoder_states else scope.tokens
        if mask is not None and x.shape[:-1] == mask.shape:
            return x[mask.to(x.device) != 0]
        return x.flatten(0, -2)


def _scope_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Scope | None:
    """Read a module's arguments; None where they say nothing: blocks are called with masks of other shapes."""
    parameters = inspect.signature(module.forward).parameters
    if "attention_mask" not in parameters:
        return _Scope()  # it reads images
    # of a whole encoder and decoder, `attention_mask` is the encoder's
    own = "decoder_attention_mask" if "decoder_attention_mask" in parameters else "attention_mask"
    tokens, encoder = (_mask(_argument(module, name, args, kwargs)) for name in (own, "encoder_attention_mask"))
    if tokens is None and encoder is None and own == "attention_mask":
        return None
    return _Scope(tokens, _argument(module, "encoder_hidden_states", args, kwargs), encoder)


def _mask(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.dim() == 2 else None


def _argument(module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments.get(name)
