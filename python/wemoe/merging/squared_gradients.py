"""Squared gradients of all parameters, without the gradients of all parameters.

The gradient of a linear map's weight [F, D] is the product of what arrives at the map's output [N, F] and of its input
[N, D]; that of an embedding's table is zero but in the rows of the tokens at hand. So autograd is asked for what
arrives at the outputs, and each weight's gradient is made, squared and added while it is in the processor's cache,
where autograd would write all of them to memory, tables whole. What autograd sends to a weight by other ways is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

WEIGHT_AT = {F.linear: 1, torch.addmm: 2, F.embedding: 1}  # place of the weight among a function's arguments
INPUTS_AT = {F.linear: 0, torch.addmm: 1, F.embedding: 0}
TOGETHER = 8  # scalars that are differentiated at once: larger products, and memory for so many backwards


@dataclass(frozen=True)
class Use:
    """One use of a weight.

    Attributes:
        kind: the function that uses it: `F.linear`, `torch.addmm` (GPT-2's Conv1D) or `F.embedding`.
        inputs: what a linear map receives [..., D], or the tokens [...] that a table is read at.
        version: of the inputs at that time.
        output: where the gradient of the output [..., F] or [..., D] arrives.
        padding: the row of a table that gets no gradient, if there is one.
    """

    kind: Any
    inputs: Tensor
    version: int
    output: GradientEdge
    padding: int | None

    def gradient(self, arriving: Tensor, like: Tensor) -> Tensor:
        """Return the gradient of the whole weight, in the shape and dtype of another tensor."""
        if self.kind is F.embedding:
            rows, of_rows = self.rows(arriving.to(like.dtype))
            return torch.zeros_like(like).index_copy_(0, rows, of_rows)
        if self.inputs._version != self.version:
            raise RuntimeError("what a linear map has received must not be changed in place before the gradients")
        x, y = (_rows(tensor.to(like.dtype)) for tensor in (self.inputs, arriving))
        return x.T @ y if self.kind is torch.addmm else y.T @ x

    def rows(self, arriving: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows [S] of a table that were read, and their gradients [S, D]."""
        rows, places = torch.unique(self.inputs.flatten(), return_inverse=True)
        gradients = arriving.new_zeros(len(rows), arriving.shape[-1]).index_add_(0, places, _rows(arriving))
        if self.padding is not None:
            gradients[rows == self.padding] = 0
        return rows, gradients


class Uses(TorchFunctionMode):
    """Notes, while it is active, how weights are used by linear maps and as tables; those send no gradients to them.

    Args:
        parameters: whose uses are noted.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._weights = {id(parameter): parameter for parameter in parameters}
        self._uses: dict[int, list[Use]] = {key: [] for key in self._weights}

    def of(self, parameter: Tensor) -> list[Use]:
        """Return what was noted of a parameter."""
        return self._uses[id(parameter)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        place = WEIGHT_AT.get(func, len(args))
        weight = self._weights.get(id(args[place])) if place < len(args) else None
        if weight is None or not _is_plain(func, kwargs) or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        output = func(*args[:place], weight.detach(), *args[place + 1 :], **kwargs)
        inputs = args[INPUTS_AT[func]].detach()
        is_leaf = not output.requires_grad
        edge = get_gradient_edge(output.requires_grad_() if is_leaf else output)
        self._uses[id(weight)].append(Use(func, inputs, inputs._version, edge, kwargs.get("padding_idx")))
        return output.clone() if is_leaf else output  # a leaf cannot be changed in place


def add_squared_gradients(
    scores: Tensor, parameters: Mapping[str, Tensor], uses: Uses, total: Mapping[str, Tensor]
) -> None:
    """Add the squared gradients of several scalars.

    Args:
        scores: [K], computed while `uses` was active; their graph is kept.
        parameters: by name, what each of them is differentiated by.
        uses: of these parameters.
        total: by the same names, what is added to, in any dtype.
    """
    noted = [(name, use) for name, parameter in parameters.items() for use in uses.of(parameter)]
    leaves = [*parameters.values(), *(use.output for _, use in noted)]
    for some in torch.split(scores, TOGETHER):
        gradients = _gradients(some, leaves)
        arriving: dict[str, list[tuple[Use, Tensor]]] = {name: [] for name in parameters}
        for (name, use), gradient in zip(noted, gradients[len(parameters) :], strict=True):
            if gradient is not None:
                arriving[name].append((use, gradient))
        for (name, parts), direct in zip(arriving.items(), gradients[: len(parameters)], strict=True):
            for k in range(len(some)):
                own = [(use, gradient[k]) for use, gradient in parts]
                _add_square(total[name], None if direct is None else direct[k], own)


def _gradients(scores: Tensor, leaves: Any) -> list[Tensor | None]:
    """Return the gradients of K scalars [K] by each leaf, [K, ...], None where there is none."""
    grad = partial(torch.autograd.grad, inputs=leaves, retain_graph=True, allow_unused=True)
    if len(scores) > 1:
        each = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
        try:
            return list(grad(scores, grad_outputs=each, is_grads_batched=True))
        except RuntimeError:  # an operation of the model cannot do several at once
            pass
    alone = [grad(score) for score in scores]
    return [None if of_leaf[0] is None else torch.stack(of_leaf) for of_leaf in zip(*alone, strict=True)]


def _add_square(squares: Tensor, direct: Tensor | None, parts: list[tuple[Use, Tensor]]) -> None:
    if direct is None and [use.kind for use, _ in parts] == [F.embedding]:
        ((use, arriving),) = parts
        rows, gradient = use.rows(arriving.to(squares.dtype))
        squares.index_add_(0, rows, gradient.square())
        return
    gradients = [use.gradient(arriving, like=squares) for use, arriving in parts]
    if direct is not None:
        gradients.append(direct.to(squares.dtype))
    if gradients:
        gradient = gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(dim=0)
        squares.addcmul_(gradient, gradient)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _is_plain(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a gradient is as `Use` says: tables may renormalise rows or count tokens, products may be scaled."""
    if func is F.embedding:
        return kwargs.get("max_norm") is None and not kwargs.get("scale_grad_by_freq")
    return kwargs.keys() <= {"bias"}
