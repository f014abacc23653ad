"""Task heads by name: the frozen linear maps that read one shared model for each of its tasks.

A head belongs to its task and is never merged. A checkpoint keeps heads beside the model, in a file of their own, so
that a headless model stays loadable without them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wemoe.safe_tensors import read_tensors

HEADS_FILE = "heads.safetensors"

Heads = Mapping[str, nn.Linear]


def frozen_head(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a head of given weight [C, D] and bias [C]; it asks for no gradients."""
    classes, width = weight.shape
    head = nn.Linear(width, classes, bias=bias is not None, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head.requires_grad_(False)


def check_heads(heads: Heads, tasks: tuple[str, ...]) -> None:
    """Check that heads are linear maps of some of the tasks.

    Raises:
        TypeError: a head is no linear layer.
        ValueError: a head's task is none of `tasks`.
    """
    for task, head in heads.items():
        if not isinstance(head, nn.Linear):
            raise TypeError(f"heads[{task!r}] must be an nn.Linear; found {type(head).__name__}")
        if task not in tasks:
            raise ValueError(f"heads must be keyed by the model's tasks {list(tasks)}; found {task!r}")


def write_heads(heads: Heads, folder: Path) -> None:
    """Write heads into a checkpoint folder."""
    tensors = {
        f"{task}/{name}": tensor.detach().contiguous()
        for task, head in heads.items()
        for name, tensor in head.named_parameters()
    }
    save_file(tensors, folder / HEADS_FILE)


def load_heads(folder: str | os.PathLike[str]) -> dict[str, nn.Linear]:
    """Load the task heads that were saved with a routed model.

    Args:
        folder: the checkpoint folder.

    Returns:
        By task, a frozen linear head.

    Raises:
        FileNotFoundError: the checkpoint holds no heads.
        ValueError: the file is damaged, or holds something else.
    """
    file = Path(folder) / HEADS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"a checkpoint's heads need {str(file)!r}; found no such file")
    parameters: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(file).items():
        task, _, name = key.rpartition("/")
        parameters.setdefault(task, {})[name] = tensor
    for task, found in parameters.items():
        if not {"weight"} <= found.keys() <= {"weight", "bias"}:
            raise ValueError(f"{str(file)!r} must hold a weight and a bias for each task; {task!r} has {sorted(found)}")
    return {task: frozen_head(found["weight"], found.get("bias")) for task, found in parameters.items()}
