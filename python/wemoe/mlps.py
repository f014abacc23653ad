"""The pieces of an MLP: a linear map up, an activation, a linear map down.

Found by structure and then proven: the composition of the pieces must reproduce the module on a random input, so a
module with a norm, a gate or a residual inside is refused by name instead of being silently misread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MLPParts:
    """down(activation(up(x))) with up: D -> F and down: F -> D."""

    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the MLP to x [..., D]."""
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


def find_mlp_parts(module: nn.Module) -> MLPParts:
    """Find the pieces of a module that applies a linear map, an activation and a second linear map.

    Args:
        module: `CLIPMLP`, `ViTMLP`, `nn.Sequential(nn.Linear, nn.GELU, nn.Linear)`, or the like; dropout may stand
            anywhere and is left out, since the weights around it are frozen.

    Raises:
        ValueError: the module has other linear maps, or does not compute the composition of its pieces.
    """
    kind = type(module).__name__
    linears = [child for child in module.modules() if isinstance(child, nn.Linear)]
    if len(linears) != 2:
        raise ValueError(f"an MLP must have two linear maps, up and down; {kind} has {len(linears)}")
    orders = [(up, down) for up, down in (linears, linears[::-1]) if up.out_features == down.in_features]
    if not orders:
        raise ValueError(f"an MLP's linear maps must follow each other; {kind} has {linears[0]} and {linears[1]}")
    for up, down in orders:
        for activation in _activation_candidates(module):
            parts = MLPParts(up, activation, down)
            if _reproduces(parts, module):
                return parts
    raise ValueError(
        f"an MLP must compute down(activation(up(x))); {kind} computes something else than its two linear maps "
        "around any one of its activations"
    )


def same_parts(parts: MLPParts, module: nn.Module, other: nn.Module) -> MLPParts:
    """Find in `other`, a module of the same architecture, the pieces that `parts` are in `module`."""
    names = {child: name for name, child in module.named_modules()}
    up, down = (cast("nn.Linear", other.get_submodule(names[child])) for child in (parts.up, parts.down))
    return replace(parts, up=up, down=down)


def _activation_candidates(module: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """Every child without parameters that is no dropout, every function kept as an attribute, the usual functions."""
    leaves = [
        child
        for child in module.modules()
        if not list(child.children()) and not list(child.parameters()) and not isinstance(child, nn.Dropout)
    ]
    functions = [
        value
        for owner in module.modules()
        for name, value in vars(owner).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
    ]
    return [*leaves, *functions, F.relu, F.gelu, F.silu, torch.tanh, nn.Identity()]


def _reproduces(parts: MLPParts, module: nn.Module) -> bool:
    """Compare on one small random input, in double precision on the CPU, dropout off."""
    twin_module, twin = copy.deepcopy((module, parts))
    twin_module.to(device="cpu", dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, parts.up.in_features, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        try:
            return torch.allclose(twin(x), twin_module(x))
        except (TypeError, RuntimeError, IndexError, AttributeError):
            return False  # an attribute that takes other arguments is no activation
