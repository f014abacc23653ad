"""The checked build: each fault that it tells, by a kernel that has exactly that one, and costs that are known."""

import pytest
import torch

from emulation import ROOT, SCHEDULES, EmulationError, Output, build_units

pytestmark = pytest.mark.emulated

EACH_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
TOYS = sorted((ROOT / "tests" / "native" / "toys").glob("*.cu"))
X = torch.arange(1024.0)
DOUBLE = {"x": X, "y": Output((1024,), torch.float32)}
NUMBERS = {"y": Output((64,), torch.float32)}


@pytest.fixture(scope="module")
def toys():
    return build_units(TOYS)


@pytest.fixture(scope="module")
def checked():
    return build_units(TOYS, checked=True)


def found(library, *call, schedule=SCHEDULES[0]):
    return {race.what for race in library.run(*call, schedule=schedule)[-1].races}


# --- results, without the checker ----------------------------------------------------------------------------------


@EACH_SCHEDULE
def test_a_clean_kernel_is_right_under_every_schedule(toys, schedule):
    y, _ = toys.run("toy_double", DOUBLE, schedule=schedule)
    assert y.equal(2 * X)


@pytest.mark.parametrize(
    "name", ["toy_double_without_wait", "toy_double_without_barrier", "toy_double_without_barrier_before_reuse"]
)
def test_each_missing_synchronisation_spoils_the_result_under_some_schedule(toys, name):
    right = [toys.run(name, DOUBLE, schedule=schedule)[0].equal(2 * X) for schedule in SCHEDULES]
    assert not all(right)


# --- faults --------------------------------------------------------------------------------------------------------

CLEAN = [
    ("toy_double", DOUBLE),
    ("toy_sum_pairs", NUMBERS),
    ("toy_broadcast", NUMBERS),
    ("toy_two_launches", NUMBERS),
    ("toy_read_at", 3, {"x": X, "y": Output((1,), torch.float32)}),
]

FAULTS = [
    (("toy_double_without_wait", DOUBLE), "access to the target of a copy in flight", "dynamic shared"),
    (("toy_double_without_barrier", DOUBLE), "read races with write", "dynamic shared"),
    (("toy_double_without_barrier_before_reuse", DOUBLE), "write races with read", "dynamic shared"),
    (("toy_sum_pairs_without_sync", NUMBERS), "read races with write", "dynamic shared"),
    (("toy_read_what_nobody_wrote", NUMBERS), "read of what nobody wrote", "dynamic shared"),
    (("toy_read_what_nobody_wrote", NUMBERS), "read of what nobody wrote", "static shared"),
    (("toy_read_unwritten_output", NUMBERS), "read of what nobody wrote", "y"),
    (("toy_store_past_the_end", NUMBERS), "out of bounds", "dynamic shared"),
    (("toy_read_at", 1024, {"x": X, "y": Output((1,), torch.float32)}), "out of bounds", "x"),
    (("toy_read_at", -1, {"x": X, "y": Output((1,), torch.float32)}), "out of bounds", "x"),
    (("toy_read_misaligned", {"x": X, "y": Output((1,), torch.float32)}), "misaligned", "x"),
    (("toy_two_blocks_write", NUMBERS), "write of what another block wrote", "y"),
    (("toy_two_warps_write", NUMBERS), "write races with write", "y"),
    (("toy_read_the_block_before", NUMBERS), "read of what another block wrote", "y"),
    (("toy_overwrite_what_was_read", NUMBERS), "write of what another block wrote", "y"),
]


@EACH_SCHEDULE
@pytest.mark.parametrize("call", CLEAN, ids=[call[0] for call in CLEAN])
def test_clean_kernels_have_no_reports(checked, call, schedule):
    assert checked.run(*call, schedule=schedule)[-1].races == []


@EACH_SCHEDULE
@pytest.mark.parametrize(("call", "what", "memory"), FAULTS, ids=[f"{call[0]}-{what}" for call, what, _ in FAULTS])
def test_each_fault_is_told_under_every_schedule(checked, call, what, memory, schedule):
    races = checked.run(*call, schedule=schedule)[-1].races
    assert (what, memory) in {(race.what, race.memory) for race in races} or (
        # a race between two threads is told by whichever comes second
        "races" in what and any("races" in race.what and race.memory == memory for race in races)
    )


def test_a_report_names_line_offset_threads_and_block(checked):
    (race,) = checked.run("toy_two_warps_write", NUMBERS)[-1].races
    source = (ROOT / "tests" / "native" / "toys" / "faults.cu").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(source) if "void write_by_all" in text)
    assert (race.place, race.memory, race.offset, race.block) == (f"faults.cu:{line}", "y", 0, "0 0 0")
    assert race.thread != race.other
    assert str(race).startswith(f"write races with write: faults.cu:{line}: y+0 by thread {race.thread}")


def test_a_write_out_of_bounds_or_to_an_input_fails_in_both_builds(toys, checked):
    for library in (toys, checked):
        with pytest.raises(EmulationError, match="y: something was written before or after its 256 bytes"):
            library.run("toy_write_one_at", 64, NUMBERS)
        with pytest.raises(EmulationError, match="x: an input was written to"):
            library.run("toy_write_to_input", {"x": X, "y": Output((1,), torch.float32)})


def test_the_checked_build_names_the_line_of_a_write_out_of_bounds_or_to_an_input(checked):
    with pytest.raises(EmulationError, match=r"out of bounds: faults.cu:\d+: y\+256 by thread 0"):
        checked.run("toy_write_one_at", 64, NUMBERS)
    with pytest.raises(EmulationError, match=r"write to an input: faults.cu:\d+: x\+0 by thread 0"):
        checked.run("toy_write_to_input", {"x": X, "y": Output((1,), torch.float32)})


# --- costs ---------------------------------------------------------------------------------------------------------


def ratios(checked, name, *arguments):
    return {access.kind: access.ratio for access in checked.run(name, *arguments)[-1].accesses}


def moved(checked, type_, shared_stride, global_stride, start=0):
    dtype, width = {"floats": (torch.float32, 1), "halves": (torch.int16, 1), "quadruples": (torch.float32, 4)}[type_]
    size = width * (start + 32 * global_stride)
    arguments = {"x": torch.ones(size, dtype=dtype), "y": Output((size,), dtype)}
    return ratios(checked, f"toy_move_{type_}", shared_stride, global_stride, start, arguments)


# type, numbers between lanes in shared memory, wavefronts above the ideal
SHARED = [
    ("floats", 1, 1), ("floats", 2, 2), ("floats", 4, 4), ("floats", 32, 32), ("floats", 33, 1), ("floats", 24, 8),
    ("halves", 1, 1), ("halves", 2, 1), ("halves", 4, 2), ("halves", 64, 32),
    ("quadruples", 1, 1), ("quadruples", 2, 2), ("quadruples", 8, 8), ("quadruples", 9, 1),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "stride", "ratio"), SHARED)
def test_bank_conflicts(checked, type_, stride, ratio):
    found = moved(checked, type_, stride, 1)
    assert (found["shared store"], found["shared load"]) == (ratio, ratio)


# type, numbers between lanes in global memory, start, sectors above the ideal
GLOBAL = [
    ("floats", 1, 0, 1), ("floats", 2, 0, 2), ("floats", 4, 0, 4), ("floats", 8, 0, 8), ("floats", 64, 0, 8),
    ("floats", 1, 1, 5 / 4), ("halves", 1, 0, 1), ("halves", 4, 0, 4), ("quadruples", 1, 0, 1), ("quadruples", 2, 0, 2),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "stride", "start", "ratio"), GLOBAL)
def test_sectors(checked, type_, stride, start, ratio):
    found = moved(checked, type_, 1, stride, start)
    assert found["global load"] == found["global store"] == pytest.approx(ratio, abs=0.07 if stride == 64 else 0)


@pytest.mark.parametrize(("row_bytes", "ratio"), [(16, 1), (32, 2), (64, 4), (128, 8), (144, 1)])
def test_rows_of_ldmatrix_share_banks(checked, row_bytes, ratio):
    assert ratios(checked, "toy_read_rows", row_bytes, {"y": Output((32,), torch.int32)})["shared load"] == ratio


def test_a_broadcast_is_one_wavefront(checked):
    assert ratios(checked, "toy_broadcast", {"y": Output((32,), torch.float32)})["shared load"] == 1


def test_traffic_counts_what_each_warp_reads_and_writes(checked):
    report = checked.run("toy_double", DOUBLE)[-1]
    assert (report.read_bytes, report.written_bytes) == ({"x": 4096, "y": 0}, {"x": 0, "y": 4096})
    copies = [access for access in report.accesses if access.kind == "global load"]
    assert [(access.bytes, access.instructions, access.ratio) for access in copies] == [(16, 8, 1.0)]
