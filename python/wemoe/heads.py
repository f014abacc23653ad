"""Task heads by name: what reads one shared model for each of its tasks.

A head belongs to its task and is never merged. It is a frozen linear map or a zero-shot head, which read a pooled
output, or all that a headed model (a `BertForSequenceClassification`, say) has beside its backbone. A checkpoint keeps
heads beside the model, in a file of their own, so that a headless model stays loadable without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.config import RoutingConfig
from wemoe.repositories import locate
from wemoe.safe_tensors import read_metadata, read_tensors
from wemoe.zero_shot import ZeroShotHead

HEADS_FILE = "heads.safetensors"
Model = TypeVar("Model", bound=nn.Module)
METADATA_KEY = "task_heads"


@dataclass(frozen=True)
class TaskHead:
    """What a headed model has beside its backbone; `wemoe.with_head` puts it on another backbone, plain or routed.

    Attributes:
        model_class: name of the headed model's class in `transformers`.
        config: the headed model's configuration, as `config.to_dict()` gives it.
        tensors: its tensors outside the backbone, under their own names; one for those that are tied.
    """

    model_class: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


PooledHead = nn.Linear | ZeroShotHead  # what reads one feature vector of each sample
Head = PooledHead | TaskHead
Heads = Mapping[str, Head | PreTrainedModel]


def read_pooled(head: PooledHead, features: Tensor) -> Tensor:
    """Return logits [B, C] of pooled features [B, D] of any dtype."""
    logits: Tensor = head(features.to(next(head.parameters()).dtype))
    return logits


def frozen_head(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a head of given weight [C, D] and bias [C]; it asks for no gradients."""
    classes, width = weight.shape
    head = nn.Linear(width, classes, bias=bias is not None, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head.requires_grad_(False)


def plain_class(model: Model) -> type[Model]:
    """Return a model's class; for a routed model, the one that its own extends."""
    found: type[Model] = getattr(type(model), "base_class", type(model))
    return found


def backbone_path(headed: PreTrainedModel, model: nn.Module, label: str) -> str:
    """Find where a headed model keeps its backbone, of the class that a model has, or a routed model's base.

    Raises:
        ValueError: there is none, or more than one; `label` names the argument.
    """
    kind = plain_class(model)
    paths: list[str] = [path for path, module in headed.named_modules() if path and isinstance(module, kind)]
    if len(paths) != 1:
        raise ValueError(
            f"{label} must have one backbone of the model's class, {kind.__name__}; "
            f"{type(headed).__name__} has {paths or 'none'}"
        )
    return paths[0]


def head_tensors(headed: PreTrainedModel, path: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of a headed model that a backbone at `path` does not give it.

    A tensor that is tied to the backbone belongs to the backbone; tensors tied to one another are listed once.
    """
    children = {name for name, _ in model.named_children()}
    shared, own = set[int](), dict[str, Tensor]()
    tensors = dict(_kept_tensors(headed))
    for name, tensor in tensors.items():
        if _is_given(name, path, children):
            shared.add(id(tensor))
    for name, tensor in tensors.items():
        if id(tensor) not in shared:
            shared.add(id(tensor))
            own[name] = tensor
    return own


def task_head(head: PreTrainedModel, model: nn.Module, label: str) -> TaskHead:
    """Take from a headed model what it has beside its backbone, which a model of the backbone's class may replace.

    Raises:
        ValueError: it has no backbone of the model's class, or a class that transformers does not have.
    """
    kind = plain_class(head)
    if getattr(transformers, kind.__name__, None) is not kind:
        raise ValueError(f"{label} must be of a class of transformers, to be loaded again; found {kind.__name__}")
    path = backbone_path(head, model, label)
    tensors = {name: tensor.detach() for name, tensor in head_tensors(head, path, model).items()}
    return TaskHead(kind.__name__, head.config.to_dict(), tensors)


def task_heads(heads: Heads, model: nn.Module) -> dict[str, Head]:
    """Check the heads of a model, plain or routed, and take from headed models what is kept of them.

    Raises:
        TypeError: a head is of no known kind.
        ValueError: a head's task is none of a routed model's, or a headed model does not belong to the model.
    """
    routing = cast("RoutingConfig | None", getattr(model, "routing_config", None))
    tasks = heads if routing is None else routing.tasks  # a plain model does not know its tasks
    found: dict[str, Head] = {}
    for task, head in heads.items():
        label = f"heads[{task!r}]"
        if task not in tasks:
            raise ValueError(f"heads must be keyed by the model's tasks {list(tasks)}; found {task!r}")
        if isinstance(head, PreTrainedModel):
            found[task] = task_head(head, model, label)
        elif isinstance(head, Head):
            found[task] = head
        else:
            raise TypeError(
                f"{label} must be an nn.Linear, a wemoe.ZeroShotHead, a headed model or a wemoe.TaskHead; "
                f"found {type(head).__name__}"
            )
    return found


def write_heads(heads: Mapping[str, Head], folder: Path) -> None:
    """Write heads into a checkpoint folder."""
    tensors = {
        f"{task}/{name}": tensor.detach().contiguous()
        for task, head in heads.items()
        for name, tensor in (head.tensors.items() if isinstance(head, TaskHead) else head.named_parameters())
    }
    described = {
        task: {"model_class": head.model_class, "config": head.config}
        for task, head in heads.items()
        if isinstance(head, TaskHead)
    }
    metadata = {METADATA_KEY: json.dumps(described, sort_keys=True)} if described else None
    save_file(tensors, folder / HEADS_FILE, metadata=metadata)


def load_heads(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    local_files_only: bool = False,
) -> dict[str, Head]:
    """Load the task heads that were saved with a model.

    Args:
        name: the checkpoint folder, or the name of a repository on the Hugging Face Hub.
        revision: branch, tag or commit of the repository.
        token: of the Hub, or True for the one that is logged in.
        local_files_only: whether to use what the Hub's cache holds, and ask no server.

    Returns:
        By task, a frozen linear or zero-shot head, or the `TaskHead` of a headed model for `wemoe.with_head`.

    Raises:
        FileNotFoundError: the checkpoint holds no heads.
        ValueError: the file is damaged, or holds something else.
    """
    file = locate(name, [HEADS_FILE], revision=revision, token=token, local_files_only=local_files_only) / HEADS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"a checkpoint's heads need {str(file)!r}; found no such file")
    return read_heads(file)


def read_heads(file: Path) -> dict[str, Head]:
    """Read a file of heads, as `load_heads` does.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    described = _read_descriptions(file)
    tensors: dict[str, dict[str, Tensor]] = {task: {} for task in described}
    for key, tensor in read_tensors(file).items():
        task, _, name = key.rpartition("/")
        tensors.setdefault(task, {})[name] = tensor
    return {
        task: TaskHead(tensors=found, **described[task]) if task in described else _pooled_head(file, task, found)
        for task, found in tensors.items()
    }


def _read_descriptions(file: Path) -> dict[str, dict[str, Any]]:
    """Return class name and configuration of the heads of headed models, by task."""
    text = read_metadata(file).get(METADATA_KEY, "{}")
    try:
        described = json.loads(text)
        return {
            task: {"model_class": str(each["model_class"]), "config": dict(each["config"])}
            for task, each in described.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{str(file)!r} must describe its heads by class and configuration; found {text[:80]!r}"
        ) from error


def _pooled_head(file: Path, task: str, found: Mapping[str, Tensor]) -> PooledHead:
    if {"weight"} <= found.keys() <= {"weight", "bias"}:
        return frozen_head(found["weight"], found.get("bias"))
    if {"classes", "scale"} <= found.keys() <= {"classes", "scale", "projection"}:
        return ZeroShotHead(**found)
    raise ValueError(
        f"{str(file)!r} must hold a weight and a bias for each task, or classes, a scale and a projection; "
        f"{task!r} has {sorted(found)}"
    )


def _kept_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, under every name that they have; the names of a state dict."""
    yield from module.named_parameters(remove_duplicate=False)
    for path, child in module.named_modules():
        for name, buffer in child.named_buffers(recurse=False):
            if name not in child._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def _is_given(name: str, path: str, children: set[str]) -> bool:
    """Whether a tensor of a headed model lies in the backbone at `path`, directly or in one of `children`."""
    if not name.startswith(f"{path}."):
        return False
    child, _, rest = name[len(path) + 1 :].partition(".")
    return not rest or child in children
