"""The kernels of merge_weights and of its gradient, run by the emulator."""

import ctypes
import itertools
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from emulation import SCHEDULES, SOURCES, EmulationError, Library, Output, Schedule, build, build_units
from emulator_report import Report
from launching import CODES, H100, ONE, Device, array
from wemoe_ext import reference
from wemoe_ext.testing import DTYPES

pytestmark = pytest.mark.emulated

PAIRS = list(itertools.product(DTYPES, DTYPES))  # of base or gradient, and experts
ROUTES, TASKS = 4, 8  # that registers hold at a time; of tasks, in the gradient's kernel
THREADS, BLOCKS = 256, 8  # of a block; at most, of a multiprocessor


class Sizes(NamedTuple):
    """``R`` routes, ``T`` tasks, ``P`` numbers."""

    R: int
    T: int
    P: int

    def __str__(self) -> str:
        return "-".join(f"{name}{size}" for name, size in self._asdict().items())


# Routes about the groups of 4, tasks about the groups of 8 and what is unrolled, numbers about the 2, 4 or 8 that a
# thread takes, about warps and about blocks of 256 to 2048; odd ones and primes, which are taken one by one.
SHAPES = [
    Sizes(*sizes)
    for sizes in (
        (1, 1, 1), (1, 1, 2), (2, 3, 4), (3, 2, 8), (4, 1, 7), (5, 8, 9), (4, 4, 16), (8, 3, 31), (7, 9, 32),
        (9, 5, 33), (1, 20, 63), (2, 7, 64), (3, 8, 65), (4, 16, 100), (5, 17, 120), (6, 1, 127), (1, 2, 128),
        (16, 4, 129), (2, 5, 248), (3, 3, 255), (4, 8, 256), (1, 8, 257), (2, 1, 264), (8, 8, 384), (1, 3, 509),
        (2, 2, 511), (4, 2, 512), (5, 1, 513), (1, 6, 768), (2, 4, 1000), (3, 1, 1021), (1, 9, 1024), (2, 2, 1025),
        (1, 1, 1536), (4, 3, 2040), (1, 5, 2047), (2, 8, 2048), (1, 4, 2049), (1, 2, 2056), (1, 1, 4104),
    )
]  # fmt: skip
assert len(set(SHAPES)) == 40


@pytest.fixture(scope="module")
def kernels() -> Library:
    return build(only=["merge_weights"])


@pytest.fixture(scope="module")
def checked_kernels() -> Library:
    return build(checked=True, only=["merge_weights"])


def compute_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Inputs:
    """Base, task vectors, routing weights, and a gradient of what is merged."""

    def __init__(self, sizes: Sizes, dtype: torch.dtype, expert_dtype: torch.dtype) -> None:
        R, T, P = self.sizes = sizes
        self.base, self.task_vectors = torch.randn(P).to(dtype), torch.randn(T, P).to(expert_dtype)
        self.routing_weights, self.grad = torch.randn(R, T).to(compute_type(dtype)), torch.randn(R, P).to(dtype)

    def of_routes(self, routes: list[int]) -> "Inputs":
        """The same for some of the routes, in another order perhaps."""
        chosen = object.__new__(Inputs)
        chosen.sizes = self.sizes._replace(R=len(routes))
        chosen.base, chosen.task_vectors = self.base, self.task_vectors
        chosen.routing_weights, chosen.grad = self.routing_weights[routes], self.grad[routes]
        return chosen


def after(skipped: int, numbers: Tensor) -> Tensor:
    """The numbers, flat, after as many others."""
    return torch.cat([torch.full((skipped,), 1e4, dtype=numbers.dtype), numbers.flatten()])


def merge(
    library: Library,
    inputs: Inputs,
    merged_dtype: torch.dtype | None = None,
    schedule: Schedule = SCHEDULES[0],
    device: Device = H100,
    skipped: int = 0,
) -> tuple[Tensor, Report]:
    """What is merged, [R, P], and the report. Arrays begin after some skipped numbers."""
    R, _, P = inputs.sizes
    dtype = merged_dtype or inputs.base.dtype
    merged, report = library.run(
        "emulated_merge_weights",
        *(CODES[found] for found in (inputs.base.dtype, inputs.task_vectors.dtype, dtype)),
        array(inputs.sizes),
        ctypes.c_int64(skipped),
        {
            "base": after(skipped, inputs.base),
            "task_vectors": after(skipped, inputs.task_vectors),
            "routing_weights": inputs.routing_weights,
            "merged": Output((skipped + R * P,), dtype),
        },
        array(device),
        schedule=schedule,
    )
    assert merged[:skipped].isnan().all()  # nothing is written there
    return merged[skipped:].view(R, P), report


def merge_backward(
    library: Library,
    inputs: Inputs,
    schedule: Schedule = SCHEDULES[0],
    device: Device = H100,
    skipped: int = 0,
) -> tuple[Tensor, Report]:
    """The gradient of the routing weights, [R, T], and the report."""
    R, T, _ = inputs.sizes
    count = library.functions.emulated_merge_weights_workspace
    count.restype = ctypes.c_int64
    real = compute_type(inputs.grad.dtype)
    _, gradient, report = library.run(
        "emulated_merge_weights_backward",
        CODES[inputs.grad.dtype],
        CODES[inputs.task_vectors.dtype],
        array(inputs.sizes),
        ctypes.c_int64(skipped),
        {
            "grad": after(skipped, inputs.grad),
            "task_vectors": after(skipped, inputs.task_vectors),
            "workspace": Output((count(array(inputs.sizes), array(device)),), real),
            "grad_routing_weights": Output((R, T), real),
        },
        array(device),
        schedule=schedule,
    )
    return gradient, report


def rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def assert_merged(merged: Tensor, inputs: Inputs) -> None:
    """Within what rounding explains, number by number.

    An expert of fp64 is rounded to fp32 first, each of T products is, and so is each of T sums; each is off by 2^-24 of
    the sum of magnitudes (2^-53 in fp64, where the expected sum is off by as much). The output is rounded once; fp16
    holds what is smaller than 2^-14 to 2^-25.
    """
    doubles = [tensor.double() for tensor in (inputs.base, inputs.task_vectors, inputs.routing_weights)]
    expected = reference.merge_weights(*doubles)
    magnitudes = reference.merge_weights(*(tensor.abs() for tensor in doubles))
    sums = 2 * (inputs.sizes.T + 2) * rounding(compute_type(inputs.base.dtype)) * magnitudes
    tiny = 2**-25 if merged.dtype == torch.float16 else 0
    allowed = sums + rounding(merged.dtype) * (expected.abs() + sums) + tiny
    error = (merged.double() - expected).abs()
    assert (error <= allowed).all(), f"{inputs.sizes}: {(error / allowed).max():.3g} times what rounding explains"


def assert_gradient(gradient: Tensor, inputs: Inputs, device: Device = H100) -> None:
    """Within what sums in another order can lose: a term passes one rounding of its expert, one of its product, and
    one for each sum that it goes through. Those are of a thread's numbers, 5 of the lanes of a warp, 8 of the warps of
    a block, and one a block; in fp64 the expected sum is off by as much again.
    """
    P = inputs.sizes.P
    blocks = min(-(-P // (THREADS * 8)), BLOCKS * device[1])
    of_a_thread = 8 * -(-P // (THREADS * blocks * 8)) if P % 8 == 0 else -(-P // (THREADS * blocks)) + 8
    doubles = inputs.grad.double(), inputs.task_vectors.double()
    expected, magnitudes = doubles[0] @ doubles[1].T, doubles[0].abs() @ doubles[1].abs().T
    roundings = of_a_thread + 5 + 8 + blocks + 2
    allowed = 2 * roundings * rounding(gradient.dtype) * magnitudes
    error = (gradient.double() - expected).abs()
    assert (error <= allowed).all(), f"{inputs.sizes}: {(error / allowed).max():.3g} times what rounding explains"


@pytest.mark.parametrize(("dtype", "expert_dtype"), PAIRS, ids=str)
def test_merges_as_the_reference_under_every_schedule(kernels, dtype, expert_dtype):
    for index, sizes in enumerate(SHAPES):
        inputs = Inputs(sizes, dtype, expert_dtype)
        first, _ = merge(kernels, inputs, skipped=index % 3)
        assert_merged(first, inputs)
        for schedule in SCHEDULES[1:]:
            assert merge(kernels, inputs, schedule=schedule)[0].equal(first)  # however arrays are aligned


@pytest.mark.parametrize(("dtype", "expert_dtype"), PAIRS, ids=str)
def test_gradient_is_that_of_the_reference_under_every_schedule(kernels, dtype, expert_dtype):
    for index, sizes in enumerate(SHAPES):
        inputs = Inputs(sizes, dtype, expert_dtype)
        first, _ = merge_backward(kernels, inputs, skipped=index % 3)
        assert_gradient(first, inputs)
        for schedule in SCHEDULES[1:]:
            gradient, _ = merge_backward(kernels, inputs, schedule, skipped=index % 3)
            assert gradient.equal(first), f"{sizes}, {schedule}: not the same bits"


@pytest.mark.parametrize("merged_dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("expert_dtype", DTYPES, ids=str)
def test_merges_fp32_into_half_precision(kernels, expert_dtype, merged_dtype):
    for index, sizes in enumerate(SHAPES[::2]):
        inputs = Inputs(sizes, torch.float32, expert_dtype)
        merged, _ = merge(kernels, inputs, merged_dtype, SCHEDULES[index % 3], skipped=index % 2)
        assert merged.dtype == merged_dtype
        assert_merged(merged, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_multiprocessor_takes_all_numbers_in_turns(kernels, dtype):
    for P in (BLOCKS * THREADS * 8 + 16, 2 * BLOCKS * THREADS + 3):
        inputs = Inputs(Sizes(2, 2, P), dtype, dtype)
        merged, _ = merge(kernels, inputs, device=ONE)
        assert_merged(merged, inputs)
        gradient, _ = merge_backward(kernels, inputs, device=ONE)
        assert_gradient(gradient, inputs, ONE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_route_does_not_depend_on_the_others(kernels, dtype):
    inputs = Inputs(Sizes(6, 9, 2056), dtype, dtype)
    merged, gradient = merge(kernels, inputs)[0], merge_backward(kernels, inputs)[0]
    for routes in ([5, 2, 0, 4, 1, 3], [4], [5, 0]):
        assert merge(kernels, inputs.of_routes(routes))[0].equal(merged[routes])
        assert merge_backward(kernels, inputs.of_routes(routes))[0].equal(gradient[routes])


@pytest.mark.parametrize(("dtype", "expert_dtype"), PAIRS, ids=str)
def test_breaks_no_rule(checked_kernels, dtype, expert_dtype):
    for sizes, skipped in ((Sizes(5, 9, 2064), 0), (Sizes(5, 9, 2064), 1), (Sizes(3, 2, 263), 0)):
        inputs = Inputs(sizes, dtype, expert_dtype)
        merged, report = merge(checked_kernels, inputs, skipped=skipped)
        assert report.races == []
        assert_merged(merged, inputs)
        gradient, report = merge_backward(checked_kernels, inputs, skipped=skipped)
        assert report.races == []
        assert_gradient(gradient, inputs)


@pytest.mark.parametrize("merged_dtype", [torch.float16, torch.bfloat16], ids=str)
def test_breaks_no_rule_into_half_precision(checked_kernels, merged_dtype):
    for expert_dtype in DTYPES:
        inputs = Inputs(Sizes(5, 3, 1032), torch.float32, expert_dtype)
        merged, report = merge(checked_kernels, inputs, merged_dtype)
        assert report.races == []
        assert_merged(merged, inputs)


@pytest.mark.parametrize(("dtype", "expert_dtype"), PAIRS, ids=str)
def test_arrays_are_read_once_and_in_whole_sectors(checked_kernels, dtype, expert_dtype):
    """Experts once for up to 4 routes; the gradient's kernel reads them so too, and the gradient once for 8 tasks."""
    for routes in (ROUTES, ROUTES + 1):
        inputs = Inputs(Sizes(routes, TASKS, 2048), dtype, expert_dtype)
        groups = -(-routes // ROUTES)
        _, report = merge(checked_kernels, inputs)
        assert report.read_bytes["task_vectors"] == groups * inputs.task_vectors.nbytes
        assert report.written_bytes["merged"] == routes * inputs.base.nbytes
        assert {access.kind for access in report.accesses} == {"global load", "global store"}
        assert [str(access) for access in report.accesses if access.ratio > 1.1] == []
        widest = {access.kind: access.bytes for access in sorted(report.accesses, key=lambda access: access.bytes)}
        assert widest == {"global load": 16, "global store": 16 * dtype.itemsize // max_itemsize(dtype, expert_dtype)}
        _, report = merge_backward(checked_kernels, inputs)
        assert report.read_bytes["task_vectors"] == groups * inputs.task_vectors.nbytes
        assert report.read_bytes["grad"] == inputs.grad.nbytes
        assert [str(access) for access in report.accesses if access.ratio > 1.1] == []


def max_itemsize(*dtypes: torch.dtype) -> int:
    return max(dtype.itemsize for dtype in dtypes)


# Both launchers for bf16 alone, so that a changed copy is compiled in seconds.
PLANTED_API = """
#include "cuda/merge_weights.cu"
using namespace wemoe::cuda;
using Number = __nv_bfloat16;
const Device device{90, 2, 227 * 1024, 50 << 20};

extern "C" {
int64_t workspace(const int64_t* s) { return merge_weights_backward_workspace({s[0], s[1], s[2]}, device); }
int forward(const int64_t* s, const Number* base, const Number* experts, const float* weights, Number* merged) {
  return merge_weights<Number, Number, Number>({s[0], s[1], s[2]}, base, experts, weights, merged, device, nullptr);
}
int backward(const int64_t* s, const Number* grad, const Number* experts, float* workspace, float* sums) {
  return merge_weights_backward<Number, Number>({s[0], s[1], s[2]}, grad, experts, workspace, sums, device, nullptr);
}
}
"""

KERNELS, LAUNCHERS = "merge_weights.cuh", "merge_weights.cu"
LOOP = "i < sizes.P; i += stride) {\n    for"

# What is changed in the text of kernels or launchers. A result need not show it; the checker must.
FORWARD_BUGS = {
    "a number too many is merged": (KERNELS, LOOP, LOOP.replace("<", "<=")),
    "a route too many is written": (KERNELS, "r < sizes.R) store", "r <= sizes.R) store"),
    "a task too many is read": (KERNELS, "t < sizes.T; t++", "t <= sizes.T; t++"),
    "blocks overlap": (
        KERNELS,
        "blockIdx.x) * MERGE_THREADS + threadIdx.x) * COUNT",
        "blockIdx.x) * 255 + threadIdx.x) * COUNT",
    ),
    "odd rows are taken in groups": (LAUNCHERS, "P % COUNT == 0 &&", "P > 0 &&"),
}
BACKWARD_BUGS = {
    "no barrier before the warps' sums are read": (KERNELS, "__syncthreads();", ""),
    "a gradient too many is read": (KERNELS, "first_route + r < sizes.R", "first_route + r <= sizes.R"),
    "an expert too many is read": (KERNELS, "first_task + t < sizes.T", "first_task + t <= sizes.T"),
    "routes beyond the last are written": (KERNELS, "&& route < sizes.R &&", "&&"),
    "half of the warps' sums are left out": (KERNELS, "warp_sums[threadIdx.x / 32]", "warp_sums[threadIdx.x / 64]"),
    "the workspace is one block's": (LAUNCHERS, "return backward_blocks(sizes, device) * sizes.R", "return sizes.R"),
    "a block too many is summed": (KERNELS, "block < blocks; block++", "block <= blocks; block++"),
}
BUGS = {**FORWARD_BUGS, **BACKWARD_BUGS}


def run_changed(tmp_path: Path, file: str, right: str, wrong: str, direction: str) -> list[object]:
    """What the checker finds in a changed copy, or how the launch ended."""
    sources = tmp_path / "csrc"
    shutil.copytree(SOURCES, sources)
    text = (sources / "cuda" / file).read_text()
    assert text.count(right) == 1
    (sources / "cuda" / file).write_text(text.replace(right, wrong))
    launchers = sources / "cuda" / LAUNCHERS
    launchers.write_text(launchers.read_text().split("#define WEMOE_INSTANTIATE")[0] + "}  // namespace wemoe::cuda\n")
    unit = tmp_path / "planted.cpp"
    unit.write_text(PLANTED_API)
    library = build_units([unit], sources, checked=True)
    # Odd rows and several blocks. A row of the forward's ends within the guards that buffers have.
    inputs = Inputs(Sizes(6, 9, 1999 if direction == "forward" else 4099), torch.bfloat16, torch.bfloat16)
    try:
        return list(run_planted(library, inputs, direction).races)
    except EmulationError as error:
        return [error]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_checker_finds_nothing_where_no_bug_is_planted(tmp_path: Path, direction: str):
    assert run_changed(tmp_path, KERNELS, "#pragma once", "#pragma once", direction) == []


@pytest.mark.parametrize("bug", BUGS)
def test_the_checker_sees_planted_bugs(tmp_path: Path, bug: str):
    direction = "forward" if bug in FORWARD_BUGS else "backward"
    assert run_changed(tmp_path, *BUGS[bug], direction) != []


def run_planted(library: Library, inputs: Inputs, direction: str) -> Report:
    R, T, _ = inputs.sizes
    if direction == "forward":
        read = {"base": inputs.base, "task_vectors": inputs.task_vectors, "routing_weights": inputs.routing_weights}
        written = {"merged": Output(inputs.grad.shape, inputs.base.dtype)}
    else:
        library.functions.workspace.restype = ctypes.c_int64
        read = {"grad": inputs.grad, "task_vectors": inputs.task_vectors}
        workspace = library.functions.workspace(array(inputs.sizes))
        written = {"workspace": Output((workspace,), torch.float32), "sums": Output((R, T), torch.float32)}
    return library.run(direction, array(inputs.sizes), read, written)[-1]
