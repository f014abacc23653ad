"""Finding the pieces of an MLP by structure.

They are guessed and then proven: the composition of the pieces must reproduce the module on a random input, so a
module with a norm or a residual inside is refused by name instead of being silently misread.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import permutations
from typing import Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from wemoe.mlps import MLPParts, MLPSlots, linear_sizes, parts_at

USUAL_ACTIVATIONS = ("relu", "gelu", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2", "tanh", "sigmoid", "linear")


def find_mlp_slots(module: nn.Module) -> MLPSlots:
    """Find the pieces of a module that is an MLP, plain or gated, its gate apart or fused with `up`.

    Args:
        module: `CLIPMLP`, `LlamaMLP`, `nn.Sequential(nn.Linear, nn.GELU, nn.Linear)`, or the like; dropout may stand
            anywhere and is left out, since the weights around it are frozen.

    Returns:
        Paths in the module; it is `replaced` whole.

    Raises:
        ValueError: the module has other linear maps, or does not compute the composition of its pieces.
    """
    kind = type(module).__name__
    linears = [name for name, child in module.named_modules() if isinstance(child, nn.Linear | Conv1D)]
    if len(linears) not in (2, 3):
        raise ValueError(
            f"an MLP must have two linear maps, up and down, or three with a gate; {kind} has {len(linears)}"
        )
    arrangements = list(_arrangements(module, linears))
    if not arrangements:
        sizes = [linear_sizes(module.get_submodule(name)) for name in linears]  # type: ignore[arg-type]
        found = ", ".join(f"{name!r} {D} -> {F}" for name, (D, F) in zip(linears, sizes, strict=True))
        raise ValueError(f"an MLP's linear maps must follow each other; {kind} has {found}")
    for activation in _activation_candidates(module):
        for up, gate, fused, down in arrangements:
            slots = MLPSlots(up, activation, down, "", gate, fused)
            if _reproduces(module, slots):
                return slots
    raise ValueError(
        f"an MLP must compute down(activation(up(x))), gated or not; {kind} computes something else than its linear "
        "maps around any one of its activations"
    )


def find_mlp_parts(module: nn.Module) -> MLPParts:
    """Return the pieces of a module that is an MLP; see `find_mlp_slots`."""
    return parts_at(module, find_mlp_slots(module))


Arrangement = tuple[str, str | None, Literal["first", "second"] | None, str]  # up, gate, fused_gate, down


def _arrangements(module: nn.Module, linears: list[str]) -> Iterator[Arrangement]:
    sizes = {name: linear_sizes(module.get_submodule(name)) for name in linears}  # type: ignore[arg-type]
    for *into, down in permutations(linears):
        width = sizes[down][0]
        if all(sizes[name][1] == width for name in into) and len({sizes[name][0] for name in into}) == 1:
            yield into[0], into[1] if len(into) == 2 else None, None, down
        if len(into) == 1 and sizes[into[0]][1] == 2 * width:
            yield into[0], None, "first", down
            yield into[0], None, "second", down


def _activation_candidates(module: nn.Module) -> Iterator[str]:
    """Every child without parameters that is no dropout, every function kept as an attribute, the usual functions."""
    for name, child in module.named_modules():
        is_leaf = not list(child.children()) and not list(child.parameters())
        if name and is_leaf and not isinstance(child, nn.Dropout):
            yield name
    for path, owner in module.named_modules():
        for name, value in vars(owner).items():
            if not name.startswith("_") and callable(value) and not isinstance(value, type):
                yield f"{path}.{name}" if path else name
    yield from USUAL_ACTIVATIONS


def _reproduces(module: nn.Module, slots: MLPSlots) -> bool:
    """Compare on one small random input, in double precision on the CPU, dropout off."""
    twin = copy.deepcopy(module).to(device="cpu", dtype=torch.float64).eval()
    parts = parts_at(twin, slots)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, linear_sizes(parts.up)[0], dtype=torch.float64, generator=generator)
    with torch.no_grad():
        try:
            return torch.allclose(parts(x), twin(x))
        except (TypeError, RuntimeError, IndexError, AttributeError):
            return False  # an attribute that takes other arguments is no activation
