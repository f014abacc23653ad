"""Task vectors tau_t = theta_t - theta_0, and the checks that make them meaningful.

A task vector exists for every floating-point parameter, whatever its `requires_grad` flag says (arXiv 2212.04089).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Expert = TypeVar("Expert")
Experts = Mapping[str, Model] | Sequence[Model]
TaskVector = dict[str, Tensor]  # by the name of the tensor in the base's state dict


def name_experts(expert_models: Experts[Model]) -> dict[str, Model]:
    """Return the experts by task name; a sequence's experts are named `task_0`, `task_1`, ...

    Raises:
        TypeError: `expert_models` is neither a mapping nor a sequence of modules, or a task name is no string.
        ValueError: there is no expert (T = 0).
    """
    named = name_sources(expert_models)
    for task, expert in named.items():
        if not isinstance(expert, nn.Module):
            raise TypeError(f"expert_models[{task!r}] must be a module; found {type(expert).__name__}")
    return named


def name_sources(expert_models: Mapping[str, Expert] | Sequence[Expert]) -> dict[str, Expert]:
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


def check_experts(base_model: nn.Module, experts: Mapping[str, nn.Module]) -> None:
    """Check that every expert was fine-tuned from an architecture like the base's.

    Raises:
        ValueError: a key is missing or unexpected, a shape or the floating-point nature of a tensor differs, or a
            tensor of the base or of an expert holds NaN or infinity. The message names the expert and the tensors.
    """
    check_same_tensors(base_model, experts)
    for label, model in (("base_model", base_model), *((f"expert_models[{t!r}]", e) for t, e in experts.items())):
        _check_finite(label, model.state_dict())


def check_same_tensors(base_model: nn.Module, experts: Mapping[str, nn.Module]) -> None:
    """Check that every expert has the tensors of the base, by name, shape and kind of dtype.

    Raises:
        ValueError: one has not. The message names the expert and the tensors.
    """
    base = base_model.state_dict()
    for task, expert in experts.items():
        label = f"expert_models[{task!r}]"
        state = expert.state_dict()
        missing, unexpected = sorted(base.keys() - state.keys()), sorted(state.keys() - base.keys())
        if missing or unexpected:
            raise ValueError(
                f"{label} must have the parameters of base_model; missing: {_listed(missing)}; "
                f"unexpected: {_listed(unexpected)}"
            )
        for name, tensor in base.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"{label} must have the shapes of base_model; {name!r} is {tuple(state[name].shape)}, "
                    f"in base_model {tuple(tensor.shape)}"
                )
            if state[name].is_floating_point() != tensor.is_floating_point():
                raise ValueError(
                    f"{label} must have the kind of dtype of base_model; {name!r} is {state[name].dtype}, "
                    f"in base_model {tensor.dtype}"
                )


def check_scaling(scaling: float) -> None:
    """Check that what task vectors are multiplied by is a finite number.

    Raises:
        ValueError: it is not.
    """
    if not math.isfinite(scaling):
        raise ValueError(f"scaling must be a finite number; found {scaling}")


def floating_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is merged of a model: every floating-point tensor of its state dict, tied ones under one name."""
    distinct = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    names = set(distinct.values())
    return {name: tensor for name, tensor in model.state_dict().items() if name in names and tensor.is_floating_point()}


def exact_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor, detached, on a device and in fp32 or better, for sums."""
    return tensor.detach().to(device=device, dtype=torch.promote_types(tensor.dtype, torch.float32))


def compute_task_vectors(base_model: nn.Module, experts: Mapping[str, nn.Module]) -> dict[str, TaskVector]:
    """Subtract the base from every expert.

    Args:
        base_model: theta_0.
        experts: theta_t by task, checked by `check_experts`.

    Returns:
        By task, theta_t - theta_0 for each of the base's `floating_tensors`, in fp32 or better on the base's devices.
    """
    base = floating_tensors(base_model)
    task_vectors = {}
    for task, expert in experts.items():
        state = expert.state_dict()
        task_vectors[task] = {
            name: exact_tensor(state[name], theta.device) - exact_tensor(theta, theta.device)
            for name, theta in base.items()
        }
    return task_vectors


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


def stack_task_vectors(base: Tensor, experts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Stack the task vectors of one parameter.

    Args:
        base: theta_0, of any shape [...].
        experts: T tensors theta_t of the same shape.
        out: [T, ...], where to write them, on the device of the base; its dtype is that of the task vectors.

    Returns:
        [T, ...], `out` or else in the dtype and on the device of the base; differences are taken in fp32 or better.

    Raises:
        ValueError: a difference is beyond the range of the dtype of `out`.
    """
    exact = torch.promote_types(base.dtype, torch.float32)
    reference = base.detach().to(exact)
    stacked = torch.empty((len(experts), *base.shape), dtype=base.dtype, device=base.device) if out is None else out
    for task_vector, expert in zip(stacked, experts, strict=True):
        task_vector.copy_(expert.detach().to(device=base.device, dtype=exact) - reference)
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


def _check_finite(label: str, state: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not is_finite(tensor)]
    if broken:
        raise ValueError(f"{label} must hold finite numbers; found NaN or infinity in: {_listed(broken)}")


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; unlike `isfinite`, this makes no tensor of the same size."""
    return tensor.numel() == 0 or all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())


def _listed(names: Sequence[str], most: int = 5) -> str:
    if not names:
        return "none"
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
