"""Heads that wait for a backbone: made once for a model, without keeping the model alive.

Whoever keeps headed models by the models that they read (`wemoe.suites`) would keep those models as well, merged models
of which nothing else is left among them. A shell holds all of a headed model but the backbone itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from wemoe.headed import with_head
from wemoe.heads import TaskHead, backbone_path
from wemoe.modes import evaluating

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class HeadShell:
    """A headed model, in evaluation mode, that lacks its backbone.

    Attributes:
        headed: the headed model; where its class has other children than the model, what stands for the backbone.
        path: where the backbone goes; None where nothing is missing.
        device: of the model that it was made for.
        dtype: of the model that it was made for.
    """

    headed: PreTrainedModel
    path: str | None
    device: torch.device
    dtype: torch.dtype

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether the model still is where, and what, it was when the shell was made."""
        return (self.device, self.dtype) == (model.device, model.dtype)

    def around(self, model: PreTrainedModel) -> nn.Module:
        """Return the headed model with its backbone in place; the shell stays as it is."""
        return self.headed if self.path is None else _replacing(self.headed, self.path, model)


def head_shell(model: PreTrainedModel, head: PreTrainedModel | TaskHead) -> HeadShell:
    """Make the shell of what `wemoe.with_head` makes of a model and a head, with its arguments and errors."""
    with evaluating(model), torch.inference_mode(False):  # what is made in inference mode could not be adapted through
        headed = with_head(model, head)
    path = backbone_path(headed, model, "head")
    if headed.get_submodule(path) is not model:
        return HeadShell(headed, None, model.device, model.dtype)
    return HeadShell(_replacing(headed, path, None), path, model.device, model.dtype)


def _replacing(module: Module, path: str, new: nn.Module | None) -> Module:
    """Return a module that is like another one, and shares all of it, but for the part at one path."""
    name, _, rest = path.partition(".")
    child = _replacing(module.get_submodule(name), rest, new) if rest else new
    twin = type(module).__new__(type(module))
    twin.__dict__ = vars(module) | {"_modules": module._modules | {name: child}}
    return twin
