"""benchmarks/check.py: fails on what got slower here, tells and passes where it knows nothing, writes its own key."""

import json
import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "check.py"))
MARGIN = CHECK["MARGIN"]
KEY = "avx2/1 thread(s)/torch 2.13"
OTHER = {"avx512/2 thread(s)/torch 2.14": {"forward": 1.0}}


def benchmark(name, value, method="layer", **case):
    settings = {"ours": "layer", "judged": "ratio", "at_most": None, "binding": True, "in_baseline": True}
    return {
        "group": name,
        "extra_info": {
            "method": method,
            "ratio": value,
            "threads": 1,
            "instruction_set": "avx2",
            "torch": "2.13.0+cpu",
            "case": settings | case,
        },
    }


@pytest.fixture
def check(tmp_path):
    """Runs the check of benchmarks on a baseline, given as what it holds or as text; returns the status."""
    report, path = tmp_path / "report.json", tmp_path / "baseline.json"

    def run(benchmarks, baseline, *options):
        report.write_text(json.dumps({"benchmarks": benchmarks}))
        if baseline is not None:
            path.write_text(baseline if isinstance(baseline, str) else json.dumps(baseline))
        return CHECK["main"]([str(report), "--baseline", str(path), *options])

    run.baseline = path
    return run


def test_a_regression_fails(check, capsys):
    benchmarks = [benchmark("forward", 2 * (1 + MARGIN) + 0.01), benchmark("backward", 2)]
    assert check(benchmarks, {KEY: {"forward": 2, "backward": 2}}) == 1
    (failure,) = [line for line in capsys.readouterr().out.splitlines() if "is more than" in line]
    assert failure.startswith("forward: ")


def test_within_the_margin_passes(check, capsys):
    assert check([benchmark("forward", 2 * (1 + MARGIN) - 0.01)], {KEY: {"forward": 2}}) == 0
    assert "no number is more than" in capsys.readouterr().out


def test_extra_memory_may_be_negative(check):
    assert check([benchmark("memory", -3)], {KEY: {"memory": -2}}) == 0
    assert check([benchmark("memory", -1)], {KEY: {"memory": -2}}) == 1


def test_only_our_own_method_is_judged(check):
    benchmarks = [benchmark("forward", 9, method="loop"), benchmark("forward", 2)]
    assert check(benchmarks, {KEY: {"forward": 2}}) == 0


def test_a_bound_that_is_newly_missed_fails(check, capsys):
    assert check([benchmark("forward", 1.7, at_most=1.65)], {KEY: {"forward": 1.6}}) == 1
    assert "forward: 1.700 is above 1.65, the most that it may be" in capsys.readouterr().out


def test_a_bound_that_the_baseline_misses_is_told_and_fails_by_the_margin_alone(check, capsys):
    baseline = {KEY: {"sparse": 1.04}}
    assert check([benchmark("sparse", 1.05, at_most=1)], baseline) == 0
    assert "at most 1  above it, as the baseline is" in capsys.readouterr().out
    assert check([benchmark("sparse", 1.04 * (1 + MARGIN) + 0.01, at_most=1)], baseline) == 1


def test_a_bound_of_other_machines_does_not_fail(check):
    assert check([benchmark("bf16", 0.9, at_most=0.4, binding=False)], {KEY: {}}) == 0


def test_a_guard_that_is_gone_fails(check, capsys):
    assert check([benchmark("forward", 2)], {KEY: {"forward": 2, "backward": 2}}) == 1
    assert "backward: is in the baseline and was not measured" in capsys.readouterr().out


def test_a_new_case_is_told_and_passes(check, capsys):
    assert check([benchmark("sparse", 2)], {KEY: {}}) == 0
    assert "sparse" in capsys.readouterr().out


def test_an_unknown_key_is_told_and_passes(check, capsys):
    assert check([benchmark("forward", 9, at_most=1.65)], OTHER) == 0
    printed = capsys.readouterr().out
    assert "9.000" in printed
    assert f"no baseline of {KEY}: nothing is judged" in printed


def test_update_writes_its_own_key_and_no_other(check):
    benchmarks = [benchmark("forward", 1.23456), benchmark("bf16", 0.5, in_baseline=False)]
    assert check(benchmarks, OTHER | {KEY: {"forward": 9, "gone": 1}}, "--update") == 0
    assert json.loads(check.baseline.read_text()) == OTHER | {KEY: {"forward": 1.235}}
    assert check(benchmarks, None) == 0


@pytest.mark.parametrize(
    ("baseline", "found"),
    [
        (None, "found no file"),
        ("{", "found no JSON"),
        ([1], r"found [1]"),
        ({KEY: 2}, "found 2"),
        ({KEY: {"forward": "fast"}}, 'found {"forward": "fast"}'),
    ],
)
@pytest.mark.parametrize("options", [[], ["--update"]])
def test_a_baseline_that_cannot_be_read_is_one_clear_sentence_and_stays(check, capsys, baseline, found, options):
    assert check([benchmark("forward", 2)], baseline, *options) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("baseline.json must be JSON of the form {key: {case: number}}; ")
    assert found in line
    assert check.baseline.exists() == (baseline is not None)


def test_the_committed_baseline_can_be_read():
    CHECK["read_baseline"](CHECK["BASELINE"])
