"""The fused kernels of routed_linear and of its input's gradient, run by the emulator."""

import ctypes
import shutil

import pytest
import torch
from torch import Tensor

from emulation import SCHEDULES, SOURCES, EmulationError, Output, build
from emulator_report import Report
from launching import A100, CODES, CONSUMER, H100, KINDS, ONE, Device, array
from wemoe_ext import reference
from wemoe_ext.testing import RoutedLinearInputs, Shape, routed_linear_inputs

pytestmark = pytest.mark.emulated


PLAN = ("groups", "tiles", "unit_rows", "units", "planes", "slots", "shared_bytes", "blocks_along", "blocks_across")

# Ragged in every way: rows about the tiles of 16, the units of 64, 128 and 256 and beyond, routes about the units of a
# block, inputs about the steps of 16, outputs about the blocks of 64, one task and more than a slot holds.
SHAPES = [
    Shape(*sizes)
    for sizes in (
        (1, 1, 8, 8, 1), (1, 2, 16, 64, 2), (2, 15, 24, 56, 3), (3, 16, 32, 72, 1), (4, 17, 40, 128, 4),
        (5, 31, 8, 64, 8), (7, 33, 48, 8, 2), (8, 50, 64, 64, 8), (9, 50, 72, 16, 3), (3, 50, 136, 104, 8),
        (17, 5, 16, 40, 5), (16, 7, 64, 24, 9), (1, 63, 56, 88, 6), (2, 64, 16, 136, 12), (3, 65, 24, 32, 2),
        (4, 80, 40, 64, 3), (5, 96, 8, 72, 4), (1, 100, 104, 48, 8), (2, 112, 64, 56, 1), (3, 127, 16, 64, 7),
        (2, 128, 32, 8, 20), (4, 129, 24, 40, 2), (1, 144, 88, 64, 5), (2, 150, 16, 72, 3), (3, 160, 8, 16, 1),
        (1, 197, 72, 64, 8), (2, 197, 40, 128, 2), (1, 208, 16, 24, 9), (2, 255, 24, 64, 3), (1, 256, 64, 32, 4),
        (1, 257, 32, 64, 8), (2, 258, 16, 8, 2), (1, 272, 48, 72, 1), (1, 300, 8, 136, 3), (1, 400, 24, 64, 2),
        (1, 513, 16, 16, 1), (11, 3, 120, 64, 4), (33, 1, 16, 64, 2), (6, 10, 200, 8, 8), (2, 20, 64, 192, 11),
    )
]  # fmt: skip
assert len(set(SHAPES)) == 40


def run(library, inputs, turned=False, tf32=False, device=H100, schedule=SCHEDULES[0]) -> tuple[Tensor, Report]:
    """The kernel's output, or ``turned``, with a gradient in place of ``x``, the input's gradient; and the report."""
    x, weight, task_vectors, routing_weights, bias, task_biases = inputs
    T, F, D = task_vectors.shape
    return library.run(
        "emulated_routed_linear",
        CODES[x.dtype],
        turned,
        array((*x.shape[:2], D, F, T)),
        {"x": x, "weight": weight, "task_vectors": task_vectors, "routing_weights": routing_weights.float()},
        {"bias": bias, "task_biases": task_biases},
        {"y": Output((*x.shape[:2], D if turned else F), x.dtype)},
        tf32,
        array(device),
        schedule=schedule,
    )


def make_inputs(shape: Shape, kind: str, turned: bool = False, bias: bool = True) -> RoutedLinearInputs:
    """Random inputs of the forward, or with a gradient for ``x`` and no biases."""
    inputs = routed_linear_inputs(shape, KINDS[kind][0], bias=bias and not turned)
    return inputs._replace(x=torch.randn(shape.R, shape.M, shape.F).to(inputs.x.dtype)) if turned else inputs


def make_plan(library, shape: Shape, element_bytes: int, device: Device, turned: bool = False) -> dict[str, int]:
    """How the launcher divides the product."""
    found = (ctypes.c_int64 * 9)()
    sizes = map(ctypes.c_int64, (shape.R, shape.M, shape.D if turned else shape.F, shape.T))
    library.functions.emulated_routed_plan(*sizes, element_bytes, array(device), found)
    return dict(zip(PLAN, found, strict=True))


def exact(inputs: RoutedLinearInputs, turned: bool) -> Tensor:
    """The result in fp64, of the numbers as they are stored."""
    x, *frozen = (None if tensor is None else tensor.double() for tensor in inputs)
    if not turned:
        return reference.routed_linear(x, *frozen)
    weight, task_vectors, routing_weights, *_ = frozen
    return x @ reference.merge_weights(weight, task_vectors, routing_weights)


def error_bound(inputs: RoutedLinearInputs, turned: bool, tf32: bool) -> Tensor:
    """The most that rounding can explain, number by number.

    An operand of the product that is rounded to p bits is off by 2^-p of itself: the assembled weights in half
    precision, both operands in TF32 (p = 11). So is the output in its own dtype. Sums of n terms in fp32 are off by
    n 2^-24 of the sum of magnitudes, whatever the order; tensor cores may drop a bit more, hence twice that. In fp16
    what is smaller than 2^-14 is off by 2^-25.
    """
    x, weight, task_vectors, routing_weights, *_ = inputs
    magnitudes = RoutedLinearInputs(*(None if tensor is None else tensor.double().abs() for tensor in inputs))
    summed = exact(magnitudes, turned)
    merged = reference.merge_weights(weight.double(), task_vectors.double(), routing_weights.double())
    product = magnitudes.x @ (merged.abs() if turned else merged.abs().mT)
    half = x.dtype != torch.float32
    unit = torch.finfo(x.dtype).eps / 2
    operands = unit if half else 2 * 2**-11 if tf32 else 0
    terms = weight.shape[0 if turned else 1] + 2 * task_vectors.shape[0] + 4
    tiny = 2**-25 * magnitudes.x.sum(-1, keepdim=True) if x.dtype == torch.float16 else 0
    return operands * product + tiny + unit * exact(inputs, turned).abs() + 2 * terms * 2**-24 * summed


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("turned", [False, True], ids=["forward", "grad_x"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kernels, kind, turned, schedule):
    """Forty ragged shapes, on devices of much and of little shared memory, with one and two groups of warps a block."""
    for index, shape in enumerate(SHAPES):
        inputs = make_inputs(shape, kind, turned, bias=index % 3 > 0)
        if index % 3 == 1:
            inputs = inputs._replace(task_biases=None)
        device = (H100, A100, CONSUMER, ONE)[index % 4]
        y, _ = run(kernels, inputs, turned, KINDS[kind][1], device, schedule)
        error = (y.double() - exact(inputs, turned)).abs()
        excess = (error / error_bound(inputs, turned, KINDS[kind][1])).max().item()
        assert excess <= 1, f"{shape}: an error of {excess:.3g} times what rounding explains"


@pytest.mark.parametrize("turned", [False, True], ids=["forward", "grad_x"])
@pytest.mark.parametrize("kind", KINDS)
def test_makes_no_forbidden_access(checked_kernels, kind, turned):
    for index, shape in enumerate(SHAPES[6::5]):
        _, report = run(
            checked_kernels, make_inputs(shape, kind, turned), turned, KINDS[kind][1], (CONSUMER, ONE)[index % 2]
        )
        assert report.races == []


@pytest.mark.parametrize("turned", [False, True], ids=["forward", "grad_x"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_each_expert_once_for_eight_samples(checked_kernels, kind, turned):
    """Of 50 rows each, on every GPU with enough samples; once for four of them where a block has one group of warps."""
    shape = Shape(R=16, M=50, D=64, F=64, T=8)
    inputs = make_inputs(shape, kind, turned)
    for device, samples in (
        (ONE, 8),
        (A100._replace(multiprocessors=1), 8),
        (CONSUMER._replace(multiprocessors=1), 8),
        (H100, 4),
    ):
        _, report = run(checked_kernels, inputs, turned, KINDS[kind][1], device)
        times = shape.R / samples
        assert report.read_bytes["weight"] == times * inputs.weight.nbytes
        assert report.read_bytes["task_vectors"] == times * inputs.task_vectors.nbytes
        assert report.read_bytes["x"] == inputs.x.nbytes
        assert report.written_bytes["y"] == shape.R * shape.M * 64 * inputs.x.itemsize


def before_the_loop() -> set[str]:
    """The lines of what a block does once, before its first step."""
    lines = (SOURCES / "cuda" / "routed_product.cuh").read_text().splitlines()
    first, last = (
        next(number for number, line in enumerate(lines, 1) if text in line)
        for text in ("void find_units(", "void copy(")
    )
    return {f"cuda/routed_product.cuh:{number}" for number in range(first, last)}


@pytest.mark.parametrize("turned", [False, True], ids=["forward", "grad_x"])
@pytest.mark.parametrize("kind", KINDS)
def test_wastes_no_bank_and_no_sector(checked_kernels, kind, turned):
    """In the main loop and on the way out, where rows are whole sectors: at most a tenth above the ideal."""
    for M in (50, 100, 197):
        inputs = make_inputs(Shape(R=4, M=M, D=64, F=128, T=8), kind, turned)
        _, report = run(checked_kernels, inputs, turned, KINDS[kind][1], ONE)
        lines = [access for access in report.accesses if access.place not in before_the_loop()]
        kinds = {access.kind for access in lines}
        assert kinds == {"shared load", "shared store", "global load", "global store"}
        assert [str(access) for access in lines if access.ratio > 1.1] == []


@pytest.mark.parametrize("turned", [False, True], ids=["forward", "grad_x"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_its_batch(kernels, kind, turned):
    """To the last bit: alone, in a block of one group of warps and in one of two."""
    shape = Shape(R=9, M=50, D=72, F=72, T=5)
    inputs = make_inputs(shape, kind, turned)
    alone = inputs._replace(x=inputs.x[4:5], routing_weights=inputs.routing_weights[4:5])
    for device in (H100, ONE):
        together, _ = run(kernels, inputs, turned, KINDS[kind][1], device)
        single, _ = run(kernels, alone, turned, KINDS[kind][1], H100)
        assert together[4:5].equal(single)


def test_a_one_hot_route_gets_the_expert_and_zeros_the_base(kernels):
    """With whole numbers, whose sums bf16 holds, the outputs are the plain product's to the last bit."""
    shape = Shape(R=4, M=20, D=64, F=64, T=3)
    inputs = make_inputs(shape, "bf16", bias=False)
    weight, task_vectors = torch.randint(-8, 9, (64, 64)).bfloat16(), torch.randint(-8, 9, (3, 64, 64)).bfloat16()
    x = torch.randint(-4, 5, (4, 20, 64)).bfloat16()
    routing_weights = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    y, _ = run(kernels, inputs._replace(x=x, weight=weight, task_vectors=task_vectors, routing_weights=routing_weights))
    experts = torch.cat([weight + task_vectors, weight[None]])
    assert y.equal((x.float() @ experts.float().mT).bfloat16())


def fits(library, shape: Shape, element_bytes: int, device: Device) -> bool:
    function = library.functions.emulated_routed_linear_fits
    function.restype = ctypes.c_bool
    return function(array(shape), element_bytes, array(device))


def test_says_what_fits(kernels):
    """Rows of whole pieces of 16 bytes, Ampere or later, an x of 64 GB, a grid and shared memory within limits."""
    good = Shape(R=8, M=50, D=768, F=3072, T=8)
    for device in (H100, A100, CONSUMER):
        for element_bytes in (2, 4):
            assert fits(kernels, good, element_bytes, device)
            assert fits(kernels, good._replace(T=64), element_bytes, device)
            assert fits(kernels, good._replace(R=1000, M=1000), element_bytes, device)
            assert not fits(kernels, good._replace(R=100_000, M=10_000), element_bytes, device)  # beyond 64 GB
    assert not fits(kernels, good, 2, A100._replace(capability=75))
    assert not fits(kernels, good._replace(D=770), 2, H100)
    assert not fits(kernels, good._replace(F=3073), 4, H100)
    assert fits(kernels, good._replace(D=4, F=4), 4, H100)
    assert not fits(kernels, good._replace(D=4), 2, H100)
    assert not fits(kernels, good._replace(T=10**6), 2, H100)
    assert not fits(kernels, good._replace(F=64 * 65536), 2, H100)


@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("device", [H100, A100, CONSUMER], ids=["H100", "A100", "consumer"])
def test_plans_keep_within_the_device(kernels, device, element_bytes):
    for T in (1, 2, 8, 20, 64):
        for M in (1, 50, 65, 129, 197, 257, 5000):
            for R in (1, 7, 64, 1000):
                plan = make_plan(kernels, Shape(R, M, 768, 768, T), element_bytes, device)
                assert plan["shared_bytes"] <= device.shared_bytes
                assert 2 <= plan["slots"] <= 4
                assert 1 <= plan["planes"] <= T + 1
                assert plan["unit_rows"] <= 16 * plan["tiles"]
                assert plan["unit_rows"] % 16 == 0
                units = R * -(-M // plan["unit_rows"])
                assert plan["blocks_along"] == -(-units // plan["units"])
                assert plan["units"] * plan["tiles"] == 16 * plan["groups"]


def test_takes_half_as_large_blocks_where_multiprocessors_would_be_idle(kernels):
    few, many = Shape(R=16, M=50, D=3072, F=768, T=8), Shape(R=64, M=50, D=768, F=3072, T=8)
    assert make_plan(kernels, few, 2, H100)["groups"] == 1
    assert make_plan(kernels, many, 2, H100)["groups"] == 2


# What is changed in a copy of the sources, each of which stands there once; the checker must see it.
PLANTED = {
    "no barrier before a slot is used": (
        "routed_product.cuh",
        "__syncthreads();  // the slot is there for all",
        "//",
    ),
    "no wait for the copies": (
        "routed_product.cuh",
        "wait_for_slot(p.plan.slots);",
        "",
    ),
    "a wait for one group too few": (
        "routed_product.cuh",
        "if (slots == 3) ptx::wait_for_copies<1>()",
        "if (slots == 3) ptx::wait_for_copies<2>()",
    ),
    "no barrier after the coefficients": (
        "routed_product.cuh",
        "  find_units(p, shared);\n  __syncthreads();\n",
        "  find_units(p, shared);\n",
    ),
    "no barrier before rows are staged": (
        "routed_product.cuh",
        "__syncthreads();  // the slots, and then",
        "//",
    ),
    "no barrier before rows are stored": (
        "routed_product.cuh",
        "shared, stage);\n    __syncthreads();\n",
        "shared, stage);\n",
    ),
    "a row too many is read": (
        "routed_product.cuh",
        "static_cast<uint32_t>(unit_row < unit.rows)",
        "static_cast<uint32_t>(unit_row <= unit.rows)",
    ),
    "an input too many is read": (
        "routed_product.cuh",
        "first_input + input < p.K ? there : 0",
        "first_input + input <= p.K ? there : 0",
    ),
    "an output too many is read": (
        "routed_product.cuh",
        "const bool valid = input < p.K && column < p.N;",
        "const bool valid = input < p.K && column <= p.N;",
    ),
    "a row too many is written": (
        "routed_product.cuh",
        "if (unit_row < unit.rows && column < p.N)",
        "if (unit_row <= unit.rows && column < p.N)",
    ),
    "a slot is short by a plane": (
        "routed_plan.h",
        "plan.slot_bytes = x_bytes + plan.planes * plane_bytes;",
        "plan.slot_bytes = x_bytes + (plan.planes - 1) * plane_bytes;",
    ),
    "the warp's patch is read too early": (
        "products.cuh",
        "    __syncwarp();\n#pragma unroll\n    for (int piece",
        "#pragma unroll\n    for (int piece",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_sees_planted_bugs(name, tmp_path):
    file, text, changed = PLANTED[name]
    shutil.copytree(SOURCES, tmp_path / "csrc")
    path = tmp_path / "csrc" / "cuda" / file
    source = path.read_text()
    assert source.count(text) == 1
    path.write_text(source.replace(text, changed))
    library = build(tmp_path / "csrc", checked=True, only=["routed_linear"])
    kind = "fp32" if file == "products.cuh" else "bf16"
    device = ONE._replace(shared_bytes=108 * 1024)  # room for three slots
    try:
        _, report = run(library, make_inputs(Shape(R=9, M=50, D=72, F=72, T=8), kind), device=device)
    except EmulationError:
        return  # it ended the launch
    assert report.races
