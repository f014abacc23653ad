"""What lies where in a warp's registers: the emulator against the words of csrc/cuda/ptx.cuh and against a GPU.

The program that asks a GPU (`make gpu-check`) asks the emulator here. The comparison with a GPU's answers is there once
they are: tests/cuda/golden_fragments.json, written by `make gpu-check ARGS=--golden`.
"""

import copy
import ctypes

import pytest

from emulation import SCHEDULES, Output, build_units
from gpu_check import fragments

pytestmark = pytest.mark.emulated


def emulated_answers(checked, schedule):
    library = build_units([fragments.SOURCE], checked=checked)

    def call(name, *arguments):
        """Runs a function whose last argument is its result."""
        *given, result = arguments
        passed = [ctypes.c_int(a) if isinstance(a, int) else {"given": a} for a in given]
        found, report = library.run(name, *passed, {"result": Output(result.shape, result.dtype)}, schedule=schedule)
        assert report.races == []
        result.copy_(found)

    return fragments.ask(call, "cpu")


@pytest.fixture(scope="module")
def answers():
    return emulated_answers(checked=False, schedule=SCHEDULES[0])


def test_the_emulator_does_what_the_wrappers_say(answers):
    assert fragments.differences(answers, fragments.documented()) == []


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_order_of_lanes_changes_nothing_and_nothing_races(answers, schedule):
    assert fragments.differences(emulated_answers(checked=True, schedule=schedule), answers) == []


def test_answers_may_stand_in_a_golden_file(answers, tmp_path):
    fragments.write_golden(tmp_path / "golden.json", {"name": "the emulator, not a GPU"}, answers)
    assert fragments.differences(answers, fragments.read_golden(tmp_path / "golden.json")) == []


@pytest.mark.parametrize(("name", "below"), [("multiply_bfloat16", 2), ("multiply_float16", 2), ("multiply_tf32", 1)])
def test_a_layout_with_two_places_exchanged_is_told(answers, name, below):
    """The first number of A and the one eight rows below it change places: eight sums of two rows are others."""
    changed = copy.deepcopy(answers)
    for pair in (pair for pairs in changed[name] for pair in pairs):
        pair[0] = {0: below, below: 0}.get(pair[0], pair[0])
    assert len(fragments.differences(changed, answers)) == 16


def test_the_program_compiles_for_every_gpu_that_has_the_instructions(tmp_path):
    library = ctypes.CDLL(str(fragments.compile_program(tmp_path, [80, 86, 89, 90, 100, 120])))
    for name in (*fragments.LOADS, *fragments.PLACES_OF_B, "round_to_tf32"):
        assert hasattr(library, f"fragments_{name}")


if fragments.GOLDEN.exists():

    def test_the_emulator_does_what_a_gpu_did(answers):
        golden = fragments.read_golden(fragments.GOLDEN)
        assert "emulator" not in golden["gpu"]["name"]
        assert fragments.differences(answers, golden) == []
