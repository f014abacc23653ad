"""The pieces of an MLP: linear maps up, perhaps gate, and down, with an activation; and where a module keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

Activation = Callable[[Tensor], Tensor]
LinearMap = nn.Linear | Conv1D


@dataclass(frozen=True)
class MLPSlots:
    """Where a block keeps the pieces of its MLP, and what the routed MLP takes the place of.

    Paths are those of submodules, with `*` for what differs between blocks. Where the MLP is a module of its own, the
    routed MLP replaces it whole. Where it is spread over the block, `down` becomes the routed MLP and what stands
    before it, activation included, becomes an identity.

    Attributes:
        up: path of the linear map D -> F.
        activation: path of the activation, or its name in transformers (`"gelu"`, `"silu"`, ...).
        down: path of the linear map F -> D.
        replaced: path of what the routed MLP takes the place of.
        gate: path of the gate D -> F of a gated MLP, down(activation(gate(x)) * up(x)).
        fused_gate: which half of the outputs of `up`, a linear map D -> 2F, is the gate.
        bypassed: paths of what becomes an identity.
    """

    up: str
    activation: str
    down: str
    replaced: str
    gate: str | None = None
    fused_gate: Literal["first", "second"] | None = None
    bypassed: tuple[str, ...] = ()


@dataclass(frozen=True)
class MLPParts:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)), with up, gate: D -> F and down: F -> D."""

    up: LinearMap
    activation: Activation
    down: LinearMap
    gate: LinearMap | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the MLP to x [..., D]."""
        inner = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        return cast("Tensor", self.down(inner))


class FusedGate(nn.Module):
    """The activation of an MLP whose `up` gives gate and values side by side: [..., 2F] to [..., F].

    Args:
        activation: of the gate.
        gate: which half is the gate.
    """

    def __init__(self, activation: Activation, gate: Literal["first", "second"]) -> None:
        super().__init__()
        self.activation = activation
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Gate one half of x [..., 2F] by the other."""
        first, second = x.chunk(2, dim=-1)
        return self.activation(first) * second if self.gate == "first" else first * self.activation(second)


def weight_of(linear: LinearMap) -> Tensor:
    """Return the weight [F, D] of a linear map; GPT-2's Conv1D stores it transposed."""
    return linear.weight.T if isinstance(linear, Conv1D) else linear.weight


def linear_sizes(linear: LinearMap) -> tuple[int, int]:
    """Return D and F of a linear map."""
    outputs, inputs = weight_of(linear).shape
    return inputs, outputs


def resolve(block: nn.Module, slots: MLPSlots) -> MLPSlots | None:
    """Put the paths of one block in place of patterns; None where the block keeps its MLP elsewhere."""
    up, down, replaced = (find_path(block, pattern) for pattern in (slots.up, slots.down, slots.replaced))
    gate = None if slots.gate is None else find_path(block, slots.gate)
    activation = find_activation(block, slots.activation)
    bypassed = tuple(path for pattern in slots.bypassed for path in find_paths(block, pattern))
    if up is None or down is None or replaced is None or activation is None or (slots.gate and gate is None):
        return None
    return MLPSlots(up, activation, down, replaced, gate, slots.fused_gate, bypassed)


def parts_at(block: nn.Module, slots: MLPSlots) -> MLPParts:
    """Return the pieces of a block's MLP, by paths without patterns."""

    def linear(path: str) -> LinearMap:
        return cast("LinearMap", block.get_submodule(path))

    activation = _activation_at(block, slots.activation)
    if slots.fused_gate:
        activation = FusedGate(activation, slots.fused_gate)
    gate = None if slots.gate is None else linear(slots.gate)
    return MLPParts(linear(slots.up), activation, linear(slots.down), gate)


def find_paths(block: nn.Module, pattern: str) -> list[str]:
    """Return the paths of submodules that a pattern fits, in the order of the block's modules."""
    return [name for name, _ in block.named_modules() if fnmatchcase(name, pattern)]


def find_path(block: nn.Module, pattern: str) -> str | None:
    """Return the one path that a pattern fits; None where there is none, or more than one."""
    paths = find_paths(block, pattern)
    return paths[0] if len(paths) == 1 else None


def find_activation(block: nn.Module, pattern: str) -> str | None:
    """Return the one path that a pattern fits, or else the name if transformers knows it; None where it is neither."""
    owner, _, name = pattern.rpartition(".")
    path = find_path(block, owner) if owner else ""
    if path is not None and hasattr(block.get_submodule(path), name):
        return f"{path}.{name}" if path else name
    return pattern if pattern in ACT2FN else None


def within(slots: MLPSlots, module: nn.Module, path: str) -> MLPSlots:
    """Turn slots of a module into slots of a block that holds it under `path`."""

    def moved(slot: str) -> str:
        return f"{path}.{slot}"

    owner, _, name = slots.activation.rpartition(".")
    is_path = hasattr(module.get_submodule(owner), name)
    return MLPSlots(
        up=moved(slots.up),
        activation=moved(slots.activation) if is_path else slots.activation,
        down=moved(slots.down),
        replaced=path,
        gate=None if slots.gate is None else moved(slots.gate),
        fused_gate=slots.fused_gate,
    )


def _activation_at(block: nn.Module, path: str) -> Activation:
    owner, _, name = path.rpartition(".")
    holder = block.get_submodule(owner)  # a module, or a function of the configuration
    return cast("Activation", getattr(holder, name) if hasattr(holder, name) else ACT2FN[path])
