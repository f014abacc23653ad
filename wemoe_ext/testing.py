"""Sample inputs, tolerances and a measure of memory, shared by the tests and the benchmarks of the ops."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Shape(NamedTuple):
    """Sizes of a routed linear: ``R`` routes of ``M`` rows, ``D`` inputs, ``F`` outputs, ``T`` tasks."""

    R: int
    M: int
    D: int
    F: int
    T: int

    def __str__(self) -> str:
        return "-".join(f"{name}{size}" for name, size in self._asdict().items())


# No multiple of a tile, one of everything, nothing of something, one route, more than one chunk of rows.
SHAPES = (
    Shape(R=1, M=1, D=1, F=1, T=1),
    Shape(R=3, M=5, D=17, F=33, T=3),
    Shape(R=2, M=50, D=130, F=70, T=8),
    Shape(R=16, M=7, D=64, F=64, T=5),
    Shape(R=9, M=1, D=100, F=65, T=2),
    Shape(R=17, M=3, D=200, F=140, T=9),
    Shape(R=1, M=197, D=48, F=96, T=3),
    Shape(R=1, M=5000, D=10, F=12, T=2),
    Shape(R=2500, M=2, D=6, F=5, T=2),
    Shape(R=0, M=3, D=4, F=5, T=1),
    Shape(R=2, M=0, D=4, F=5, T=1),
    Shape(R=2, M=3, D=0, F=5, T=1),
    Shape(R=2, M=3, D=4, F=0, T=1),
)


class RoutedLinearInputs(NamedTuple):
    """Arguments of ``routed_linear``."""

    x: Tensor  # [R, M, D]
    weight: Tensor  # [F, D]
    task_vectors: Tensor  # [T, F, D]
    routing_weights: Tensor  # [R, T]
    bias: Tensor | None  # [F]
    task_biases: Tensor | None  # [T, F]


class MergeWeightsInputs(NamedTuple):
    """Arguments of ``merge_weights``."""

    base: Tensor  # [...]
    task_vectors: Tensor  # [T, ...]
    routing_weights: Tensor  # [R, T]


def routed_linear_inputs(
    shape: Shape, dtype: torch.dtype = torch.float32, expert_dtype: torch.dtype | None = None, bias: bool = True
) -> RoutedLinearInputs:
    """Random inputs whose results are of order one; routing weights of both signs, some beyond 1.

    Args:
        shape: Their sizes.
        dtype: Of everything but the task vectors.
        expert_dtype: Of the task vectors and task biases; ``dtype`` by default.
        bias: Whether there are biases.
    """
    R, M, D, F, T = shape
    weight, task_vectors, routing_weights = merge_weights_inputs((F, D), R, T, dtype, expert_dtype)
    scale = max(1, D) ** -0.5
    x = torch.randn(R, M, D).to(dtype)
    return RoutedLinearInputs(
        x,
        weight * scale,
        task_vectors * scale,
        routing_weights,
        torch.randn(F).to(dtype) if bias else None,
        torch.randn(T, F).to(task_vectors.dtype) if bias else None,
    )


def merge_weights_inputs(
    sizes: tuple[int, ...],
    R: int,
    T: int,
    dtype: torch.dtype = torch.float32,
    expert_dtype: torch.dtype | None = None,
) -> MergeWeightsInputs:
    """Random inputs; routing weights of both signs, some beyond 1.

    Args:
        sizes: Shape of the base.
        R: Routes.
        T: Tasks.
        dtype: Of base and routing weights.
        expert_dtype: Of the task vectors; ``dtype`` by default.
    """
    return MergeWeightsInputs(
        torch.randn(sizes).to(dtype),
        torch.randn(T, *sizes).to(expert_dtype or dtype),
        torch.randn(R, T).to(dtype),
    )


def tolerance(dtype: torch.dtype) -> float:
    """The largest error that is rounding, as a part of the largest number of the expected tensor.

    Two results that are each rounded once differ by one unit in the last place of their dtype. Before that, sums
    of n products taken in another order differ by about sqrt(n) roundings of the type they are taken in; 64
    allows for n = 4096, the largest sum of the sample inputs that does not average itself out.
    """
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.finfo(dtype).eps + 64 * torch.finfo(compute).eps


TOLERANCE = {dtype: tolerance(dtype) for dtype in DTYPES}


def assert_close(name: str, actual: Tensor, expected: Tensor) -> None:
    """Asserts equal shape and dtype, and values within ``TOLERANCE`` of that dtype."""
    assert actual.shape == expected.shape, f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, expected {expected.dtype}"
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs().max().item()
    bound = TOLERANCE[expected.dtype] * expected.double().abs().max().item()
    assert error <= bound, f"{name}: differs by {error:.3g}, more than the {bound:.3g} that rounding explains"


def peak_bytes(function: Callable[[], object]) -> int:
    """Returns the most memory that tensors took at a time during a call, above what there was before."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
