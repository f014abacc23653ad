"""Weights of a model, wherever they are: in a module, in a state dict, in a checkpoint's folder, in a LoRA adapter.

They are read one tensor at a time, or a few rows of one, so that merging T models needs memory for little more than
what comes out. Reading converts nothing. Tensors that a model holds under several names are there once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.provenance import public_name

Source = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
ExpertSources = Mapping[str, Source] | Sequence[Source]
Rows = slice | EllipsisType  # some rows of a tensor, or all of it


@dataclass(frozen=True)
class Architecture:
    """What is known of the model that weights belong to.

    Attributes:
        model_class: name of its class in `transformers`; None where the class is from somewhere else.
        config: its configuration, as `config.to_dict()` gives it.
        prefix: under which path a headed model of the family holds its backbone; empty where it has none.
        backbone_class: name of the backbone's class, `model_class` itself where the model is no more than that.
    """

    model_class: str | None
    config: dict[str, Any]
    prefix: str
    backbone_class: str


class Weights(ABC):
    """The tensors of one model, by name.

    Attributes:
        label: of the argument, for messages.
        contents: by name, each tensor once; only shape and dtype count, since a tensor may be on the meta device.
        aliases: by every other name of a tensor, its name in `contents`.
        parameters: names in `contents` of what is trained; the others are buffers.
        architecture: of the model, None where there is nothing but tensors.
        folder: of the checkpoint, None where the weights are in memory.
        name: of the model as others may know it, None where it has none.
        unknown: names in `contents` that the model's own class does not have: a file's leftovers.
        notes: what is to be known about the weights, and does not stand against merging them.
    """

    def __init__(
        self,
        label: str,
        contents: Mapping[str, Tensor],
        aliases: Mapping[str, str],
        parameters: Iterable[str],
        architecture: Architecture | None = None,
        folder: Path | None = None,
    ) -> None:
        self.label = label
        self.contents = contents
        self.aliases = aliases
        self.parameters = frozenset(parameters)
        self.architecture = architecture
        self.folder = folder
        self.name: str | None = None
        self.unknown: frozenset[str] = frozenset()
        self.notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, name: str, rows: Rows = ...) -> Tensor:
        """Return a tensor, or some of its rows; it is never written to.

        Raises:
            ValueError: the file that holds it is damaged.
        """

    def rows(self, name: str, elements: int) -> Iterator[Rows]:
        """Yield the rows of a tensor, from the first to the last, about so many elements at a time."""
        hollow = self.contents[name]
        if hollow.dim() == 0 or hollow.numel() == 0:
            yield ...
            return
        step = max(1, elements * len(hollow) // hollow.numel())
        for start in range(0, len(hollow), step):
            yield slice(start, min(start + step, len(hollow)))

    def names_of(self, name: str) -> list[str]:
        """Return every name of a tensor, the one in `contents` first."""
        return [name, *(alias for alias, first in self.aliases.items() if first == name)]


class _HeldWeights(Weights):
    """Weights that are in memory."""

    def read(self, name: str, rows: Rows = ...) -> Tensor:
        return self.contents[name].detach()[rows]


@contextmanager
def open_weights(source: Source, label: str, base: nn.Module | Path | None = None) -> Iterator[Weights]:
    """Open the weights of a module, a state dict, a folder or repository of safetensors, or a LoRA adapter.

    Args:
        source: `"model+adapter"` is a LoRA adapter on a model, each a folder or a repository of the Hub.
        label: of the argument, for messages.
        base: the model that an adapter belongs to, where it is given without one; the one that it names by default.

    Raises:
        FileNotFoundError: there is neither such a folder nor such a repository, or a file is missing in it.
        ImportError: it is a LoRA adapter, and peft is not installed.
        TypeError: it is none of these.
        ValueError: a file is damaged, or holds a pickle.
    """
    if isinstance(source, nn.Module):
        yield module_weights(source, label)
    elif isinstance(source, Mapping):
        yield state_weights(source, label)
    elif isinstance(source, str | os.PathLike):
        from wemoe.stored_weights import open_stored  # it needs what is above

        with open_stored(source, label, base) as weights:
            yield weights
    else:
        raise TypeError(
            f"{label} must be a module, a state dict or a checkpoint's folder or name; found {type(source).__name__}"
        )


def module_weights(module: nn.Module, label: str) -> Weights:
    """Return the weights of a module: its parameters and persistent buffers, which are not copied."""
    state = module.state_dict()
    contents: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    parameters = []
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            aliases[name] = first[id(tensor)]
            continue
        contents[name] = state[name]
        if isinstance(tensor, nn.Parameter):
            parameters.append(name)
    weights = _HeldWeights(label, contents, aliases, parameters, architecture_of(module))
    weights.name = public_name(getattr(getattr(module, "config", None), "_name_or_path", None))
    return weights


def state_weights(state: Mapping[str, Tensor], label: str) -> Weights:
    """Return the weights of a state dict; what shares memory counts once, and every floating-point tensor is trained.

    Raises:
        TypeError: something in it is no tensor.
    """
    contents: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{label} must hold tensors by name; found {type(tensor).__name__} in {name!r}")
        if first.setdefault(_memory(tensor), name) != name:
            aliases[name] = first[_memory(tensor)]
        else:
            contents[name] = tensor
    return _HeldWeights(label, contents, aliases, _floating(contents))


def architecture_of(model: nn.Module) -> Architecture | None:
    """Say what is known of a model's architecture; None where it is no Hugging Face model."""
    if not isinstance(model, PreTrainedModel):
        return None
    kind = type(model)
    known = getattr(transformers, kind.__name__, None) is kind
    return Architecture(
        kind.__name__ if known else None,
        model.config.to_dict(),
        model.base_model_prefix,
        type(model.base_model).__name__,
    )


def _memory(tensor: Tensor) -> Any:
    if tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _floating(contents: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in contents.items() if torch.is_floating_point(tensor)]
