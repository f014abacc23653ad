"""What type checkers are told of methods that take any source: a module in, a module of its class out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from torch import Tensor, nn

from wemoe.weights import ExpertSources, Source

Model = TypeVar("Model", bound=nn.Module)
Merged = nn.Module | dict[str, Tensor]
P = ParamSpec("P")  # what a method takes beside models


class Method(Protocol[P]):
    """A method whose result is of the kind of its base."""

    @overload
    def __call__(self, base_model: Model, expert_models: ExpertSources, *args: P.args, **kwargs: P.kwargs) -> Model: ...
    @overload
    def __call__(
        self,
        base_model: Mapping[str, Tensor] | str | os.PathLike[str],
        expert_models: ExpertSources,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> dict[str, Tensor]: ...


def keeps_kind(method: Callable[Concatenate[Source, ExpertSources, P], Merged]) -> Method[P]:
    """Tell type checkers that a method gives a model for a model and a state dict for anything else."""
    return cast("Method[P]", method)
