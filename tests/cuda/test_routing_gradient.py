"""The kernels of the routing weights' gradient, run by the emulator."""

import ctypes
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emulation import SCHEDULES, SOURCES, EmulationError, Library, Output, Schedule, build
from emulator_report import Report
from launching import CODES, CONSUMER, H100, KINDS, Device, array
from wemoe_ext import reference
from wemoe_ext.testing import Shape

pytestmark = pytest.mark.emulated

ROUTES, TILE = 8, 64  # of a block: routes that share an expert's tile; outputs and inputs

# Ragged in every way: rows about the slabs of 32 or 64 and the steps of 8 and 32, routes about the groups of 8, inputs
# and outputs about the tiles of 64, tasks about the pairs, the batches of 8 and twice that, all about the 4 slots.
SHAPES = [
    Shape(*sizes)
    for sizes in (
        (1, 1, 8, 8, 1), (1, 2, 16, 64, 2), (2, 15, 24, 56, 3), (3, 16, 32, 72, 1), (4, 17, 40, 128, 4),
        (5, 31, 8, 64, 8), (7, 33, 48, 8, 2), (8, 50, 64, 64, 8), (9, 50, 72, 16, 3), (3, 50, 136, 104, 8),
        (17, 5, 16, 40, 5), (16, 7, 64, 24, 9), (1, 63, 56, 88, 6), (2, 64, 16, 136, 12), (3, 65, 24, 32, 2),
        (4, 80, 40, 64, 3), (5, 96, 8, 72, 4), (1, 100, 104, 48, 8), (2, 112, 64, 56, 1), (3, 127, 16, 64, 7),
        (2, 128, 32, 8, 20), (4, 129, 24, 40, 2), (1, 144, 88, 64, 5), (2, 150, 16, 72, 3), (3, 160, 8, 16, 1),
        (1, 197, 72, 64, 8), (2, 197, 40, 128, 2), (1, 208, 16, 24, 9), (6, 32, 24, 64, 16), (1, 24, 64, 32, 17),
        (10, 9, 32, 64, 15), (15, 1, 16, 8, 2), (1, 40, 48, 72, 18), (12, 8, 8, 136, 3), (1, 48, 24, 64, 7),
        (13, 3, 16, 16, 1), (11, 3, 120, 64, 4), (17, 1, 16, 64, 2), (6, 10, 200, 8, 8), (1, 2, 320, 264, 1),
    )
]  # fmt: skip
assert len(set(SHAPES)) == 40
RAGGED = Shape(R=9, M=33, D=72, F=136, T=9)


class Inputs:
    """``grad``, ``x`` and task vectors. Rows of fp32 are whole pieces of 4 numbers but not of 8."""

    def __init__(self, shape: Shape, kind: str) -> None:
        dtype, self.tf32 = KINDS[kind]
        R, M, D, F, T = shape
        if dtype == torch.float32:
            D, F = max(D - 4, 0), max(F - 4, 0)
        self.grad, self.x = torch.randn(R, M, F).to(dtype), torch.randn(R, M, D).to(dtype)
        self.task_vectors = torch.randn(T, F, D).to(dtype)

    def of_routes(self, routes: list[int]) -> "Inputs":
        """The same for some of the routes, in another order perhaps."""
        chosen = object.__new__(Inputs)
        chosen.tf32, chosen.task_vectors = self.tf32, self.task_vectors
        chosen.grad, chosen.x = self.grad[routes], self.x[routes]
        return chosen

    @property
    def sizes(self) -> Shape:
        return Shape(*self.x.shape, *self.task_vectors.shape[1::-1])


def workspace_floats(kernels: Library, sizes: Shape) -> int:
    kernels.functions.emulated_routing_gradient_workspace.restype = ctypes.c_int64
    return kernels.functions.emulated_routing_gradient_workspace(array(sizes))


def run(kernels: Library, inputs: Inputs, schedule: Schedule = SCHEDULES[0]) -> tuple[Tensor, Report]:
    """The gradient [R, T], and what the checked build found."""
    _, gradient, report = kernels.run(
        "emulated_routing_gradient",
        CODES[inputs.x.dtype],
        array(inputs.sizes),
        {
            "grad": inputs.grad,
            "x": inputs.x,
            "task_vectors": inputs.task_vectors,
            "workspace": Output((workspace_floats(kernels, inputs.sizes),), torch.float32),
            "grad_routing_weights": Output((inputs.sizes.R, inputs.sizes.T), torch.float32),
        },
        inputs.tf32,
        array(H100),
        schedule=schedule,
    )
    return gradient, report


def gradient_of_reference(grad: Tensor, x: Tensor, task_vectors: Tensor) -> Tensor:
    """By autograd in fp64."""
    T, F, D = task_vectors.shape
    routing_weights = torch.zeros(len(x), T, dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(F, D, dtype=torch.float64)
    reference.routed_linear(x.double(), weight, task_vectors.double(), routing_weights).backward(grad.double())
    return routing_weights.grad


def rounded_to_tf32(numbers: Tensor) -> Tensor:
    """To 10 bits after the point, halves away from zero."""
    return ((numbers.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def assert_matches_reference(gradient: Tensor, inputs: Inputs) -> None:
    """Within what sums in fp32 can lose, number by number.

    A sum whose terms pass at most n roundings, each by 2^-24 of the sum so far, is off by at most n 2^-24 times the sum
    of their magnitudes: M for the rows; 16 for the numbers of a lane, 5 for the lanes of a warp, 8 for the warps of a
    block; every 16th tile and then 16 of these sums. Products of what is stored in half precision, or was rounded to
    TF32, are exact in fp32; those of fp32 lose a rounding more, and so do those with the experts.
    """
    _, M, D, F, _ = inputs.sizes
    grad, x = map(rounded_to_tf32, (inputs.grad, inputs.x)) if inputs.tf32 else (inputs.grad, inputs.x)
    tiles = -(-D // TILE) * -(-F // TILE)
    roundings = M + 2 + 16 + 5 + 8 + -(-tiles // 16) + 16
    magnitudes = gradient_of_reference(grad.abs(), x.abs(), inputs.task_vectors.abs())
    error = (gradient.double() - gradient_of_reference(grad, x, inputs.task_vectors)).abs()
    assert (error <= roundings * 2**-24 * magnitudes).all(), f"{inputs.sizes}: {(error / magnitudes).max():.3g}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_gradient_of_the_reference_under_every_schedule(kernels, shape, kind):
    inputs = Inputs(shape, kind)
    first, _ = run(kernels, inputs)
    assert_matches_reference(first, inputs)
    for schedule in SCHEDULES[1:]:
        gradient, _ = run(kernels, inputs, schedule)
        assert gradient.equal(first), f"{schedule}: not the same bits"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", "RMDF")
def test_nothing_summed_is_zero(kernels, size, kind):
    inputs = Inputs(Shape(2, 3, 16, 16, 2)._replace(**{size: 0}), kind)
    gradient, _ = run(kernels, inputs)
    assert gradient.equal(torch.zeros(inputs.sizes.R, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_route_does_not_depend_on_the_others(kernels, kind):
    inputs = Inputs(Shape(R=11, M=37, D=72, F=136, T=9), kind)
    together, _ = run(kernels, inputs)
    order = [10, 3, 0, 8, 5, 1, 9, 2, 7, 4, 6]
    assert run(kernels, inputs.of_routes(order))[0].equal(together[order])
    for route in (0, 7, 10):
        assert run(kernels, inputs.of_routes([route]))[0].equal(together[[route]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [RAGGED, Shape(2, 40, 8, 64, 17)], ids=str)
def test_breaks_no_rule(checked_kernels, shape, kind):
    inputs = Inputs(shape, kind)
    gradient, report = run(checked_kernels, inputs)
    assert_matches_reference(gradient, inputs)
    assert report.races == []


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_read_once_for_eight_routes(checked_kernels, kind):
    inputs = Inputs(Shape(R=17, M=5, D=72, F=136, T=3), kind)
    _, report = run(checked_kernels, inputs)
    R, _, D, F, _ = inputs.sizes
    bytes_of = {name: getattr(inputs, name).nbytes for name in ("grad", "x", "task_vectors")}
    assert report.read_bytes["task_vectors"] == -(-R // ROUTES) * bytes_of["task_vectors"]
    assert report.read_bytes["grad"] == -(-D // TILE) * bytes_of["grad"]
    assert report.read_bytes["x"] == -(-F // TILE) * bytes_of["x"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_bank_conflicts_and_whole_sectors(checked_kernels, kind):
    """Every line of both kernels, where rows of numbers and of routing weights are whole sectors."""
    extra = 4 if KINDS[kind][0] == torch.float32 else 0  # which Inputs takes off
    inputs = Inputs(Shape(R=9, M=50, D=80 + extra, F=112 + extra, T=16), kind)
    _, report = run(checked_kernels, inputs)
    assert report.races == []
    kinds = {access.kind for access in report.accesses}
    assert kinds == {"shared load", "shared store", "global load", "global store"}
    assert [str(access) for access in report.accesses if access.ratio > 1.1] == []


KERNEL = "cuda/routing_gradient.cuh"

# What is changed in the kernels' text. A result need not show it; the checker must, where it finds nothing otherwise.
BUGS = {
    "no barrier before a slot is used": (
        "__syncthreads();  // the slot is there for all",
        "// the slot is there for all",
    ),
    "no barrier before the last sums leave": ("__syncthreads();  // the last sums", "// the last sums"),
    "no barrier in the second kernel": ("  __syncthreads();\n", ""),
    "a slot used before it is there": ("wait_for_copies<SLOTS - 2>", "wait_for_copies<SLOTS - 1>"),
    "a slot filled while it is used": ("slot_at(step + SLOTS - 1)", "slot_at(step + SLOTS)"),
    "sums of one batch over those of the last": ("task % (2 * TASKS)) * ROUTES", "task % TASKS) * ROUTES"),
    "a row too many of grad": ("found < grad_rows_", "found <= grad_rows_"),
    "a row too many of x": ("found < x_rows_", "found <= x_rows_"),
    "a column too many of x": ("input < p.D ? p.M", "input <= p.D ? p.M"),
    "a row too many of an expert": ("row_ + row < rows", "row_ + row <= rows"),
    "an expert too many": ("i < tasks_ ?", "i <= tasks_ ?"),
    "a task too many of the tiles' sums": ("column / ROUTES < p.T", "column / ROUTES <= p.T"),
    "a task too many of the output": ("first_task + task < p.T", "first_task + task <= p.T"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_checker_reports_planted_bugs(tmp_path: Path, bug: str):
    right, wrong = BUGS[bug]
    sources = tmp_path / "csrc"
    shutil.copytree(SOURCES, sources)
    text = (sources / KERNEL).read_text()
    assert text.count(right) == 1
    (sources / KERNEL).write_text(text.replace(right, wrong))
    kernels = build(sources, checked=True, only=["routing_gradient"])
    try:
        _, report = run(kernels, Inputs(RAGGED, "bf16"))
    except EmulationError:  # the launch was given up
        return
    assert report.races != []


def fits(kernels: Library, sizes: Shape, element_bytes: int = 2, device: Device = H100) -> bool:
    function = kernels.functions.emulated_routing_gradient_fits
    function.restype = ctypes.c_bool
    return function(array(sizes), element_bytes, array(device))


def test_fits(kernels):
    sizes = Shape(R=16, M=50, D=768, F=3072, T=8)
    assert fits(kernels, sizes)
    assert fits(kernels, sizes, 4, CONSUMER)
    assert fits(kernels, sizes._replace(D=4, F=12), 4)
    assert not fits(kernels, sizes._replace(D=4), 2)
    assert not fits(kernels, sizes._replace(F=2), 4)
    assert not fits(kernels, sizes._replace(T=0))
    assert not fits(kernels, sizes, 2, H100._replace(capability=75))
    assert not fits(kernels, sizes, 2, H100._replace(shared_bytes=64 * 1024))
    assert not fits(kernels, sizes._replace(R=2**31))
    assert not fits(kernels, sizes._replace(D=2**24, F=2**24))  # more blocks than a grid has
