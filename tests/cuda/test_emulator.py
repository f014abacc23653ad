"""What the emulator promises: instructions as the PTX ISA has them, schedules, and failures that end in an error."""

import ctypes
import os
from pathlib import Path

import pytest
import torch

import emulation
from emulation import ROOT, SCHEDULES, EmulationError, Output, Schedule, build_units
from fragments import (
    from_registers,
    loaded_by_ldmatrix,
    places_of_a_16,
    places_of_a_tf32,
    places_of_b_16,
    places_of_b_tf32,
    places_of_sums,
    to_registers,
)

pytestmark = pytest.mark.emulated

EACH_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
TOYS = sorted((ROOT / "tests" / "native" / "toys").glob("*.cu"))


@pytest.fixture(scope="module")
def toys():
    return build_units(TOYS)


def run(toys, name, *arguments, schedule=SCHEDULES[0]):
    """The only output."""
    output, _ = toys.run(name, *arguments, schedule=schedule)
    return output


# --- instructions --------------------------------------------------------------------------------------------------


@EACH_SCHEDULE
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_lanes_the_elements_that_the_isa_names(toys, transposed, schedule):
    matrices = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8)
    arguments = {"rows": matrices, "loaded": Output((32, 4, 2), torch.int16)}
    loaded = run(toys, "toy_load_matrices", transposed, arguments, schedule=schedule)
    assert loaded.equal(loaded_by_ldmatrix(matrices, transposed))


def test_ldmatrix_by_hand(toys):
    """Lanes 0, 5 and 31, written out: matrix j holds 64 j to 64 j + 63, row by row."""
    matrices = torch.arange(256, dtype=torch.int16)
    arguments = {"rows": matrices, "loaded": Output((32, 8), torch.int16)}
    plain = run(toys, "toy_load_matrices", False, arguments)
    assert plain[0].tolist() == [0, 1, 64, 65, 128, 129, 192, 193]
    assert plain[5].tolist() == [10, 11, 74, 75, 138, 139, 202, 203]
    assert plain[31].tolist() == [62, 63, 126, 127, 190, 191, 254, 255]
    transposed = run(toys, "toy_load_matrices", True, arguments)
    assert transposed[0].tolist() == [0, 8, 64, 72, 128, 136, 192, 200]
    assert transposed[5].tolist() == [17, 25, 81, 89, 145, 153, 209, 217]
    assert transposed[31].tolist() == [55, 63, 119, 127, 183, 191, 247, 255]


def test_fragments_by_hand():
    """Row and column of every element of lanes 0, 5 and 31."""
    of = lambda places, count: [[places(lane, i) for i in range(count)] for lane in (0, 5, 31)]  # noqa: E731
    assert of(places_of_a_16, 8) == [
        [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)],
        [(1, 2), (1, 3), (9, 2), (9, 3), (1, 10), (1, 11), (9, 10), (9, 11)],
        [(7, 6), (7, 7), (15, 6), (15, 7), (7, 14), (7, 15), (15, 14), (15, 15)],
    ]
    assert of(places_of_b_16, 4) == [
        [(0, 0), (1, 0), (8, 0), (9, 0)],
        [(2, 1), (3, 1), (10, 1), (11, 1)],
        [(6, 7), (7, 7), (14, 7), (15, 7)],
    ]
    assert of(places_of_a_tf32, 4) == [
        [(0, 0), (8, 0), (0, 4), (8, 4)],
        [(1, 1), (9, 1), (1, 5), (9, 5)],
        [(7, 3), (15, 3), (7, 7), (15, 7)],
    ]
    assert of(places_of_b_tf32, 2) == [[(0, 0), (4, 0)], [(1, 1), (5, 1)], [(3, 7), (7, 7)]]
    assert of(places_of_sums, 4) == [
        [(0, 0), (0, 1), (8, 0), (8, 1)],
        [(1, 2), (1, 3), (9, 2), (9, 3)],
        [(7, 6), (7, 7), (15, 6), (15, 7)],
    ]


def multiply(toys, name, a, b, sums, schedule=SCHEDULES[0]):
    """``sums + a @ b`` by one warp."""
    half = a.shape[1] == 16
    places_of_a, places_of_b = (places_of_a_16, places_of_b_16) if half else (places_of_a_tf32, places_of_b_tf32)
    arguments = {
        "a": to_registers(a, places_of_a, 8 if half else 4),
        "b": to_registers(b, places_of_b, 4 if half else 2),
        "sums": to_registers(sums, places_of_sums, 4),
        "results": Output((32, 4), torch.float32),
    }
    return from_registers(run(toys, name, arguments, schedule=schedule), places_of_sums, (16, 8))


MULTIPLICATIONS = {
    "toy_multiply_bfloat16": (torch.bfloat16, 16),
    "toy_multiply_float16": (torch.float16, 16),
    "toy_multiply_tf32": (torch.float32, 8),
}


@EACH_SCHEDULE
@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_mma_multiplies_and_adds(toys, name, schedule):
    """Small integers: exact in every type and sum, so that equality is asked for."""
    dtype, K = MULTIPLICATIONS[name]
    a, b = torch.randint(-9, 10, (16, K)).to(dtype), torch.randint(-9, 10, (K, 8)).to(dtype)
    sums = torch.randint(-999, 1000, (16, 8)).float()
    assert multiply(toys, name, a, b, sums, schedule).equal(sums + a.float() @ b.float())


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_mma_sums_exact_products_in_fp32(toys, name):
    """2^-8 more than 1, squared, needs 17 bits: no rounding to the operands' type comes between."""
    dtype, K = MULTIPLICATIONS[name]
    number = 1 + 2**-7
    a, b = torch.full((16, K), number, dtype=dtype), torch.full((K, 8), number, dtype=dtype)
    assert multiply(toys, name, a, b, torch.zeros(16, 8)).equal(torch.full((16, 8), K * number**2))


@pytest.mark.parametrize("name", ["toy_multiply_bfloat16", "toy_multiply_float16"])
def test_mma_reads_every_number_of_16_bits(toys, name):
    """All 65536 patterns, 256 at a time, times one: subnormal, infinite and NaN ones too."""
    dtype, _ = MULTIPLICATIONS[name]
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(-1, 16, 16)
    for a in patterns[::16]:  # one in sixteen: the exponents and signs, and subnormal numbers among them
        a = torch.where(a.isfinite(), a, 0)
        for first in (0, 8):
            b = torch.eye(16, dtype=dtype)[:, first : first + 8]
            assert multiply(toys, name, a, b, torch.zeros(16, 8)).equal(a.float()[:, first : first + 8])
    for special in (torch.inf, -torch.inf, torch.nan):
        a = torch.full((16, 16), special, dtype=dtype)
        found = multiply(toys, name, a, torch.ones(16, 8, dtype=dtype), torch.zeros(16, 8))
        torch.testing.assert_close(found, torch.full((16, 8), special), equal_nan=True)


def test_tf32_mma_reads_the_upper_19_bits(toys):
    """What was not rounded is cut off, so that a forgotten rounding shows."""
    a = torch.full((16, 8), 1 + 2**-10 + 2**-11 + 2**-23)
    found = multiply(toys, "toy_multiply_tf32", a, torch.eye(8), torch.zeros(16, 8))
    assert found.equal(torch.full((16, 8), 1 + 2**-10))


def test_rounding_to_tf32_takes_the_nearest_and_ties_away_from_zero(toys):
    given = [1.0, 1 + 2**-11, 1 + 2**-11 - 2**-23, 1 + 3 * 2**-11, -1 - 2**-11, 2 - 2**-12, 0.0, torch.inf]
    expected = [1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -1 - 2**-10, 2.0, 0.0, torch.inf]
    arguments = {"numbers": torch.tensor(given), "rounded": Output((len(given),), torch.float32)}
    assert run(toys, "toy_round_to_tf32", len(given), arguments).tolist() == expected


@EACH_SCHEDULE
def test_shuffles(toys, schedule):
    """A lane without a partner inside its width keeps its number."""
    lanes = range(32)
    expected = [
        [5 for _ in lanes],
        [lane ^ 3 for lane in lanes],
        [lane + 4 if lane < 28 else lane for lane in lanes],
        [lane - 4 if lane >= 4 else lane for lane in lanes],
        [lane // 8 * 8 + 5 for lane in lanes],
        [lane ^ 12 if (lane ^ 12) < lane // 8 * 8 + 8 else lane for lane in lanes],
        [lane + 4 if lane % 8 < 4 else lane for lane in lanes],
        [lane - 4 if lane % 8 >= 4 else lane for lane in lanes],
    ]
    results = run(toys, "toy_shuffles", {"results": Output((8, 32), torch.float32)}, schedule=schedule)
    assert results.tolist() == expected


@EACH_SCHEDULE
def test_votes_of_half_a_warp_each(toys, schedule):
    results = run(toys, "toy_votes", {"results": Output((3, 32), torch.int32)}, schedule=schedule)
    ballots = [sum(1 << lane for lane in half if lane % 3 == 0) for half in (range(16), range(16, 32))]
    assert [ballot % 2**32 for ballot in results[0].tolist()] == [ballots[0]] * 16 + [ballots[1]] * 16
    assert results[1].tolist() == [0] * 16 + [1] * 16
    assert results[2].tolist() == [0] * 16 + [1] * 16


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("copies", "early"), [("at issue", 256), ("at wait", 0), ("tossed", None)])
def test_copies_take_effect_at_issue_at_wait_or_by_coin(toys, copies, early):
    x = torch.full((256, 4), 2.0)
    arguments = {"x": x, "seen": Output((2, 256, 4), torch.float32)}
    before, after = run(toys, "toy_watch_copies", 256, arguments, schedule=Schedule("ascending", copies))
    assert after.equal(x)
    assert ((before == 1) | (before == 2)).all()
    there = int((before[:, 0] == 2).sum())
    assert there == early if early is not None else 64 < there < 192  # eight standard deviations about half


def test_a_wait_leaves_the_newest_groups_and_a_copy_that_is_not_valid_brings_zeros(toys):
    arguments = {"x": torch.full((4,), 5.0), "seen": Output((3,), torch.float32)}
    late = run(toys, "toy_wait_for_one_group", arguments, schedule=Schedule("ascending", "at wait"))
    assert late.tolist() == [5, 1, 0]


def test_every_block_finds_nan_in_shared_memory(toys):
    assert run(toys, "toy_read_fresh_shared", {"found": Output((2, 2, 64), torch.float32)}).isnan().all()


# --- failures ------------------------------------------------------------------------------------------------------

INTEGERS = {"y": Output((64,), torch.int32)}
NUMBER = {"y": Output((1,), torch.float32)}
X = {"x": torch.ones(64)}

FAILURES = [
    (("toy_wait_apart", INTEGERS), r"deadlock: 32 of 32 threads wait.*thread 0 on in __syncwarp at .*failures.cu:\d+"),
    (("toy_diverge", INTEGERS), r"divergent warp: .*__ballot_sync.* waits in __shfl_sync at .*failures.cu:\d+"),
    (("toy_leave_early", INTEGERS), r"__shfl_xor_sync names lanes that have ended"),
    (
        ("toy_stand_outside", INTEGERS),
        r"a lane calls __ballot_sync and is not in its mask: .*:\d+, thread 0",
    ),
    (("toy_reach_outside", INTEGERS), r"a shuffle reads lane 20, which is not in its mask"),
    (("toy_meet_elsewhere", INTEGERS), r"wait at different __syncthreads"),
    (("toy_forget_copies", X), r"copies that it has never waited for: .*failures.cu:\d+, thread 0, block \(0 0 0\)"),
    (("toy_copy_from_odd_places", 4, X), r"source of an asynchronous copy must be a multiple of 16, it is 4 past one"),
    (("toy_copy_past_the_end", X), r"must lie within the launch's 16384 bytes, it is at 16384"),
    (("toy_read_nowhere", X | NUMBER), r"an access to memory that is not there.*failures.cu:\d+"),
    (("toy_overflow", INTEGERS), r"an access to memory that is not there"),
    (("toy_divide", 0, INTEGERS), r"a division by zero: .*failures.cu:\d+"),
    (("toy_write_at", 3, NUMBER), r"y: something was written before or after its 4 bytes"),
    (("toy_write_at", -1, NUMBER), r"y: something was written before or after its 4 bytes"),
    (("toy_launch", *(ctypes.c_int64(1),) * 3, 1025, ctypes.c_int64(0)), r"1 to 1024 threads, found 1025"),
    (("toy_launch", *(ctypes.c_int64(1),) * 3, 32, ctypes.c_int64(232449)), r"may have 232448 bytes.*found 232449"),
    (("toy_launch", *map(ctypes.c_int64, (1, 65536, 1)), 32, ctypes.c_int64(0)), r"grid.y must be 65535 at most"),
    (("toy_launch", *map(ctypes.c_int64, (1, 1, 65536)), 32, ctypes.c_int64(0)), r"grid.z must be 65535 at most"),
    (("toy_launch", *map(ctypes.c_int64, (0, 1, 1)), 32, ctypes.c_int64(0)), r"a grid must have blocks, found none"),
]


@pytest.mark.parametrize(("call", "message"), FAILURES, ids=[f"{call[0]}-{i}" for i, (call, _) in enumerate(FAILURES)])
def test_a_failed_launch_says_why_and_the_next_one_runs(toys, call, message):
    with pytest.raises(EmulationError, match=message):
        toys.run(*call)
    assert run(toys, "toy_broadcast", {"y": Output((32,), torch.float32)}).tolist() == [3.0] * 32


def test_a_thread_that_leaves_others_waiting_is_told_in_every_order(toys):
    with pytest.raises(EmulationError, match=r"a thread ends although lane 16 waits for it in __shfl_xor_sync"):
        toys.run("toy_leave_early", INTEGERS, schedule=Schedule("descending", "at wait"))


def test_fibers_switch_without_our_own_assembly_too(monkeypatch, tmp_path):
    """By ucontext, as on processors other than x86-64: a result, a failure and a fault."""
    monkeypatch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} -DWEMOE_UCONTEXT")
    monkeypatch.setattr(emulation, "BUILD", tmp_path)
    portable = build_units(TOYS)
    assert run(portable, "toy_shuffles", {"results": Output((8, 32), torch.float32)})[0].tolist() == [5] * 32
    for name, arguments in (("toy_diverge", INTEGERS), ("toy_read_nowhere", X | NUMBER)):
        with pytest.raises(EmulationError, match=name):
            portable.run(name, arguments)
    assert run(portable, "toy_broadcast", {"y": Output((32,), torch.float32)}).tolist() == [3.0] * 32


def test_headers_that_are_missing_are_asked_for(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-runtime"):
        emulation.find_cuda_headers.__wrapped__()


def test_the_largest_launch_that_is_allowed_runs(toys):
    toys.run("toy_launch", *map(ctypes.c_int64, (70000, 1, 1)), 1, ctypes.c_int64(0))
    toys.run("toy_launch", *map(ctypes.c_int64, (1, 2, 3)), 1024, ctypes.c_int64(232448))
