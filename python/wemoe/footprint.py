"""What a routed model takes in memory, part by part, told from shapes and dtypes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from wemoe.layers import RoutedMLP
from wemoe.packed_layers import PackedLinear
from wemoe.preference_layers import PreferenceLayer
from wemoe.router_sharing import routers_of

Layer = PackedLinear | PreferenceLayer


@dataclass(frozen=True)
class Memory:
    """Bytes of a routed model.

    Attributes:
        base: everything that the base had: its MLPs as they were, and all that is merged statically.
        task_vectors: what the experts add.
        routers: the parameters that adaptation trains; their gradients and Adam's state take three times that.
        transient: what is there beside the model at the moment when it takes most: the largest routed layer as it was
            before it was packed, say.
    """

    base: int
    task_vectors: int
    routers: int
    transient: int

    @property
    def total(self) -> int:
        """Bytes of the model once it is there."""
        return self.base + self.task_vectors + self.routers

    @property
    def peak(self) -> int:
        """The most bytes at a time while the model is made or loaded, not counting base and experts."""
        return self.total + self.transient


def measure(model: nn.Module) -> Memory:
    """Measure a routed model, which may be on the meta device, and loading it to a CPU.

    Tensors that are shared count once.
    """
    layers = _layers(model)
    total = size_of([*model.parameters(), *model.buffers()]) + sum(layer.filling_bytes for layer in layers)
    task_vectors = size_of(tensor for layer in layers for tensor in layer.task_parameters())
    router = size_of(parameter for router in routers_of(model) for parameter in router.parameters())
    packed = max((layer.packing_bytes for layer in layers), default=0)
    return Memory(total - task_vectors - router, task_vectors, router, packed)


def measure_upcycling(model: nn.Module) -> Memory:
    """Measure a routed model, which may be on the meta device, and making it.

    The merged module that a routed one replaces is there until then, and so is what taking task vectors needs.
    """
    memory = measure(model)
    placed = [_layers(module) for module in model.modules() if isinstance(module, RoutedMLP | PreferenceLayer)]
    replaced = max((sum(_plain_size(layer) for layer in layers) for layers in placed), default=0)
    building = max((layer.building_bytes for layers in placed for layer in layers), default=0)
    return replace(memory, transient=replaced + max(memory.transient, building))


def _layers(module: nn.Module) -> list[Layer]:
    return [layer for layer in module.modules() if isinstance(layer, Layer)]


def _plain_size(layer: Layer) -> int:
    if isinstance(layer, PreferenceLayer):
        return size_of(layer.base.parameters())
    return size_of(layer.parameters()) - size_of(layer.task_parameters())


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def readable(size: float) -> str:
    """Write a number of bytes as people read it: `1.9 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
