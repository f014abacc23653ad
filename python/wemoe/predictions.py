"""How a task reads a model: batches of any nesting, and the logits that `predict(model, batch, task)` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
Predict = Callable[[nn.Module, Batch, str], Tensor | tuple[Tensor, Tensor]]


def read_logits(prediction: Tensor | tuple[Tensor, Tensor], task: str) -> tuple[Tensor, Tensor | None]:
    """Split a prediction into the logits that count [S, C], in fp32, and the mask that chose them.

    Raises:
        TypeError: the prediction is no logits [..., C].
        ValueError: no row of logits counts.
    """
    logits, valid = prediction if isinstance(prediction, tuple) else (prediction, None)
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"predict must give logits [..., C] for task {task!r}; found {found}")
    rows = logits.flatten(0, -2) if valid is None else logits[valid]
    if rows.shape[0] == 0:
        raise ValueError(f"predict must give at least one row of logits for task {task!r}; found none")
    return rows.float(), valid


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply a function to every tensor of a batch: a tensor, or mappings, lists and tuples of tensors.

    The batch is not changed; what is neither a tensor nor a container stays as it is.
    """
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(function, value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_tensors(function, value) for value in batch)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch; the batch is not changed."""
    return map_tensors(lambda tensor: tensor.to(device), batch)


def count_samples(batch: Any, task: str) -> int:
    """Return B, the first dimension that all tensors of a batch have in common.

    Raises:
        ValueError: there is no such dimension.
    """
    sizes: set[int | None] = set()

    def note(tensor: Tensor) -> Tensor:
        sizes.add(tensor.shape[0] if tensor.dim() else None)
        return tensor

    map_tensors(note, batch)
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"batches[{task!r}] must hold tensors with one first dimension, the samples; found sizes "
            f"{sorted(sizes, key=str)}"
        )
    return next(iter(size for size in sizes if size is not None))


def split_samples(batch: Any, task: str) -> list[Any]:
    """Return the B samples of a batch, each as a batch of one.

    Raises:
        ValueError: the tensors of the batch have no first dimension in common.
    """

    def sample(row: int) -> Any:
        return map_tensors(lambda tensor: tensor[row : row + 1], batch)

    return [sample(row) for row in range(count_samples(batch, task))]


def check_batches(batches: Mapping[str, Iterable[Any]], tasks: Iterable[str], examples: int) -> None:
    """Check that there are data for every task.

    Raises:
        TypeError: `batches` is no mapping.
        ValueError: a task has no batches, or `examples` is below 1.
    """
    if not isinstance(batches, Mapping):
        raise TypeError(f"batches must map task names to batches; found {type(batches).__name__}")
    missing = [task for task in tasks if task not in batches]
    if missing:
        raise ValueError(f"batches must hold batches for every expert; missing: {missing}")
    if examples < 1:
        raise ValueError(f"examples must be at least 1; found {examples}")
