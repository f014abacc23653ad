"""Slots: the tensors of a model, each with all the names under which the model holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Slot:
    """One tensor of a model.

    Attributes:
        tensor: a parameter or a buffer.
        persistent: whether state dicts hold it.
        names: every name that the model has for it; more than one where it is shared.
        owners: for each name, the module and the attribute that hold it.
    """

    tensor: Tensor
    persistent: bool
    names: list[str] = field(default_factory=list)
    owners: list[tuple[nn.Module, str]] = field(default_factory=list)

    def fill(self, tensor: Tensor) -> None:
        """Put another tensor into every place of this one; a parameter's becomes one parameter."""
        if isinstance(self.tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=self.tensor.requires_grad)
        for module, attribute in self.owners:
            setattr(module, attribute, tensor)
        self.tensor = tensor


def find_slots(model: nn.Module) -> list[Slot]:
    """Find the tensors of a model, in the order of its modules."""
    slots: dict[int, Slot] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, tensor, persistent in _tensors(module):
            slot = slots.setdefault(id(tensor), Slot(tensor, persistent))
            slot.names.append(f"{path}.{attribute}" if path else attribute)
            slot.owners.append((module, attribute))
    return list(slots.values())


def find_shared(model: nn.Module) -> dict[str, str]:
    """Find what a model holds in several places: by path, the first path of the same module or parameter.

    Modules without parameters, and what is inside a shared module, are left out.
    """
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{found}.") for found in shared):
            continue
        if first.setdefault(id(module), path) != path and next(module.parameters(), None) is not None:
            shared[path] = first[id(module)]
            continue
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{attribute}" if path else attribute
            if first.setdefault(id(parameter), name) != name:
                shared[name] = first[id(parameter)]
    return shared


def share(model: nn.Module, shared: dict[str, str]) -> None:
    """Let a model hold in several places what `find_shared` found in another one of the same architecture.

    Raises:
        AttributeError: there is no such path in the model.
        TypeError: what is there is no module or parameter, or not of the same kind as what it is to be.
    """
    for path, original in shared.items():
        parent, _, attribute = path.rpartition(".")
        source, _, name = original.rpartition(".")
        replaced, first = getattr(model.get_submodule(parent), attribute), getattr(model.get_submodule(source), name)
        if type(replaced) is not type(first) or not isinstance(first, nn.Module | nn.Parameter):
            raise TypeError(f"{type(replaced).__name__} at {path!r}, {type(first).__name__} at {original!r}")
        setattr(model.get_submodule(parent), attribute, first)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield attribute, parameter, True
    for attribute, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        yield attribute, buffer, attribute not in module._non_persistent_buffers_set
