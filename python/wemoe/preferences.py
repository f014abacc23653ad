"""The user's preference among the tasks of a PWEMoE: checked, set and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wemoe.preference_routers import Preference
from wemoe.routed_classes import RoutedModule

PreferenceLike = Tensor | Sequence[float] | Sequence[Sequence[float]] | Mapping[str, float]

TOLERANCE = 1e-4  # of a sum of 1: decimals that were rounded to four digits pass


def set_preference(model: nn.Module, preference: PreferenceLike, *, normalize: bool = False) -> None:
    """Steer a PWEMoE by a preference, from the next forward on (arXiv 2406.09770).

    `DistributedDataParallel` broadcasts buffers, so the first process's preference goes to all of them; where each
    process has its own, wrap the model with `broadcast_buffers=False`.

    Args:
        model: a routed model made by `upcycle(..., method="pwemoe")`, or a model that has one as its backbone. The
            preference is part of its state: it is copied, moved and saved with the model.
        preference: how much each task matters, numbers that are at least 0 and sum to 1. [T], in the order of the
            model's tasks, or by task; or [B, T], for each sample of the next batches a preference of its own.
        normalize: divide by the sum, so that any numbers that are at least 0 will do.

    Raises:
        TypeError: `model` reads no preference.
        ValueError: the preference is not what it must be.
    """
    backbone = steered_backbone(model)
    found = _preference_of(backbone)
    checked = check_preference(preference, backbone.routing_config.tasks, normalize)
    found.value = checked.to(found.value.device)


def get_preference(model: nn.Module) -> Tensor:
    """Return a copy of the preference of a PWEMoE, [T] or [B, T] in fp32; equal weights where none was set.

    Raises:
        TypeError: `model` reads no preference.
    """
    return _preference_of(steered_backbone(model)).value.clone()


@contextmanager
def restoring_preference(model: nn.Module) -> Iterator[None]:
    """Give a model the preference back that it has now, when the block ends."""
    before = get_preference(model)
    try:
        yield
    finally:
        set_preference(model, before)


def check_preference(preference: PreferenceLike, tasks: Sequence[str], normalize: bool = False) -> Tensor:
    """Check a preference.

    Args:
        preference: as in `set_preference`.
        tasks: names of the T tasks.
        normalize: as in `set_preference`.

    Returns:
        A new tensor [T] or [B, T] in fp32, on the CPU.

    Raises:
        ValueError: it has another shape, other tasks, or a number that is negative or not finite, or does not sum to 1.
    """
    if isinstance(preference, Mapping):
        if preference.keys() != set(tasks):
            raise ValueError(f"preference must have a number for each of the tasks {list(tasks)}; found {preference}")
        preference = [preference[task] for task in tasks]
    try:
        values = torch.as_tensor(preference, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError) as error:  # rows of unlike length, or no numbers
        raise ValueError(f"preference must be numbers [T] or [B, T]; found {preference!r}") from error
    if values.dim() not in (1, 2) or values.shape[-1] != len(tasks) or values.shape[0] == 0:
        raise ValueError(
            f"preference must be [T] or [B, T] with T = {len(tasks)}, of the tasks {list(tasks)}; "
            f"found {list(values.shape)}"
        )
    if not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError(f"preference must be finite numbers that are at least 0; found {values.tolist()}")
    sums = values.sum(dim=-1, keepdim=True)
    if normalize:
        if bool((sums == 0).any()):
            raise ValueError(f"preference must have a number above 0 to be normalised; found {values.tolist()}")
        values = values / sums
    elif bool(((sums - 1).abs() > TOLERANCE).any()):
        raise ValueError(
            f"preference must sum to 1, or be given with normalize=True; found {values.tolist()}, which sums to "
            f"{sums.squeeze(-1).tolist()}"
        )
    return values.float()


def steered_backbone(model: nn.Module) -> RoutedModule:
    """Return the model that a preference steers: this one, or its backbone.

    Raises:
        TypeError: `model` reads no preference.
    """
    for module in model.modules():
        if isinstance(module, RoutedModule) and module.routing_config.reads == "preference":
            return module
    raise TypeError(
        "model must be made by upcycle(..., method='pwemoe'), whose routers read a preference; "
        f"found {type(model).__name__}"
    )


def _preference_of(model: nn.Module) -> Preference:
    return next(module for module in model.modules() if isinstance(module, Preference))
