"""Task vectors tau_t = theta_t - theta_0, and the checks that make them meaningful.

A task vector exists for every floating-point parameter, whatever its `requires_grad` flag says (arXiv 2212.04089).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Expert = TypeVar("Expert")


def name_experts(expert_models: Mapping[str, Expert] | Sequence[Expert]) -> dict[str, Expert]:
    """Return experts of any kind by task name; a sequence's experts are named `task_0`, `task_1`, ...

    Raises:
        TypeError: `expert_models` is neither a mapping nor a sequence, or a task name is no string.
        ValueError: there is no expert (T = 0).
    """
    if not isinstance(expert_models, Iterable) or isinstance(expert_models, str):
        raise TypeError(
            "expert_models must be a list of modules or a mapping from task name to module; "
            f"found {type(expert_models).__name__}"
        )
    named = (
        dict(expert_models)
        if isinstance(expert_models, Mapping)
        else {f"task_{t}": expert for t, expert in enumerate(expert_models)}
    )
    if not named:
        raise ValueError("expert_models must hold at least one expert (T >= 1); found none")
    for task in named:
        if not isinstance(task, str):
            raise TypeError(f"expert_models must be keyed by task names (str); found {task!r}")
    return named


def check_scaling(scaling: float) -> None:
    """Check that what task vectors are multiplied by is a finite number.

    Raises:
        ValueError: it is not.
    """
    if not math.isfinite(scaling):
        raise ValueError(f"scaling must be a finite number; found {scaling}")


def exact(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """Return a tensor, detached, in fp32 or better, for sums; on its own device or another one."""
    return tensor.detach().to(device=device or tensor.device, dtype=torch.promote_types(tensor.dtype, torch.float32))


def with_tensors(base_model: Model, tensors: Iterable[tuple[str, Tensor]]) -> Model:
    """Copy a model and put tensors in place of its own, by name; they are cast to the model's dtypes.

    The tensors are taken one by one, so that a generator needs memory for one of them alone.
    """
    model = copy.deepcopy(base_model)
    state = model.state_dict()
    for name, tensor in tensors:
        state[name].copy_(tensor)
        check_range(f"the merged {name!r}", state[name])
    return model


def stack_task_vectors(
    base: Tensor,
    experts: Sequence[Tensor],
    out: Tensor | None = None,
    prune: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Stack the task vectors of one parameter.

    Args:
        base: theta_0, of any shape [...].
        experts: T tensors theta_t of the same shape.
        out: [T, ...], where to write them, on the device of the base; its dtype is that of the task vectors.
        prune: zeros what is not kept of a task vector, which it is given in fp32 or better.

    Returns:
        [T, ...], `out` or else in the dtype and on the device of the base; differences are taken in fp32 or better.

    Raises:
        ValueError: a difference is beyond the range of the dtype of `out`.
    """
    reference = exact(base)
    stacked = torch.empty((len(experts), *base.shape), dtype=base.dtype, device=base.device) if out is None else out
    for task_vector, expert in zip(stacked, experts, strict=True):
        difference = exact(expert, base.device) - reference
        task_vector.copy_(difference if prune is None else prune(difference))
    check_range("task vectors", stacked)
    return stacked


def check_range(label: str, narrowed: Tensor) -> None:
    """Check that a tensor that was finite in its former dtype is so in its new one.

    Raises:
        ValueError: a number was too large for float16, the one dtype here of a narrower range than float32.
    """
    if narrowed.dtype == torch.float16 and not is_finite(narrowed):
        limit = torch.finfo(torch.float16).max
        raise ValueError(f"{label} in float16 must be within +-{limit:.0f}; found a larger number. Choose bfloat16")


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; unlike `isfinite`, this makes no tensor of the same size."""
    return tensor.numel() == 0 or all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())
