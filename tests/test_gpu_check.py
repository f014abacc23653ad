"""`make gpu-check` where there is no GPU: what it refuses, how stages run, what it reports."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpu_check import __main__ as command
from gpu_check import checks, files, gpu, predictions, report
from gpu_check.stages import FAILED, NOT_RUN, PASSED, NotRunError, Outcome, run_stage

ROOT = Path(__file__).resolve().parents[1]
ABOUT = {"started": "2030-01-01T00:00:00+00:00", "commit": "abc", "gpu": {"name": "A GPU", "driver": "1.2"}}


@pytest.fixture
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# --- the refusal -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_gpu")
def test_without_a_gpu_it_says_what_was_found_and_runs_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "QUERY", ("nvidia-smi-that-is-not-there",))
    monkeypatch.setattr(command, "stages_of", lambda *_: pytest.fail("ran a stage"))
    assert command.main(["--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: gpu-check needs an NVIDIA GPU, its driver and a CUDA build of torch. Found: ")
    assert f"nvidia-smi: not on PATH; torch {torch.__version__}" in said
    assert "torch.cuda.is_available() is False" in said
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("_no_gpu")
def test_what_the_drivers_tool_says_is_told(monkeypatch):
    script = "print('NVIDIA-SMI has failed'); raise SystemExit(9)"
    monkeypatch.setattr(gpu, "QUERY", (sys.executable, "-c", script))
    with pytest.raises(gpu.NoGpuError, match="nvidia-smi: NVIDIA-SMI has failed; torch"):
        gpu.describe_gpu()


def test_a_stage_that_there_is_not_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "describe_gpu", lambda: {"name": "A GPU"})
    assert command.main(["--only", "everything"]) == 2
    expected = "--only must be one of install, fragments, tests, sanitizer, benchmarks. Found everything."
    assert expected in capsys.readouterr().err


# --- stages ----------------------------------------------------------------------------------------------------------


def test_a_stage_that_fails_stops_no_other_and_the_exit_code_says_so(monkeypatch, tmp_path):
    ran = []

    def passing():
        ran.append("passing")
        return Outcome(PASSED, "fine")

    def raising():
        ran.append("raising")
        raise ValueError("no luck\nat all")

    def absent():
        ran.append("absent")
        raise NotRunError("there is no tool")

    stages = {"first": raising, "second": absent, "third": passing}
    monkeypatch.setattr(command, "describe_gpu", lambda: {"name": "A GPU"})
    monkeypatch.setattr(command, "stages_of", lambda *_: stages)
    assert command.main(["--results", str(tmp_path)]) == 1
    assert ran == ["raising", "absent", "passing"]
    told = json.loads((tmp_path / "report.json").read_text())["stages"]
    assert {name: stage["status"] for name, stage in told.items()} == {
        "first": FAILED,
        "second": NOT_RUN,
        "third": PASSED,
    }
    assert told["first"]["summary"] == "no luck"
    assert "ValueError: no luck" in told["first"]["details"]["error"]
    assert command.main(["--results", str(tmp_path), "--only", "second", "--only", "third"]) == 0


def test_tests_are_read_with_their_outcomes_and_reasons(tmp_path):
    module = tmp_path / "test_four.py"
    module.write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise RuntimeError('no fixture')\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert 1 == 2\n"
        "def test_small(): pytest.skip('needs 40 GB')\n"
        "def test_broken(broken): pass\n"
    )
    junit = tmp_path / "tests.xml"
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(module)]
    subprocess.run([sys.executable, *arguments], capture_output=True, cwd=tmp_path)
    tests = {test["name"]: (test["outcome"], test["reason"]) for test in checks.read_junit(junit)}
    assert tests["test_four::test_right"] == ("passed", "")
    assert tests["test_four::test_wrong"] == ("failed", "assert 1 == 2")
    assert tests["test_four::test_small"] == ("skipped", "needs 40 GB")
    assert tests["test_four::test_broken"][0] == "error"


def test_no_sanitizer_is_told_and_fails_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "find_sanitizer", lambda: None)
    outcome = run_stage(lambda: checks.sanitize(tmp_path))
    assert outcome.status == NOT_RUN
    assert "neither on PATH, nor in CUDA_HOME" in outcome.summary


SANITIZER = """#!{python}
import sys
tool = sys.argv[sys.argv.index("--tool") + 1]
print("========= ERROR SUMMARY: 0 errors" if tool == "memcheck" else "========= RACECHECK SUMMARY: {hazards} displayed")
sys.exit({code} if tool == "racecheck" else 0)
"""


@pytest.mark.parametrize(("hazards", "code", "status"), [("0 hazards", 0, PASSED), ("2 hazards", 86, FAILED)])
def test_the_sanitizers_summaries_are_kept(monkeypatch, tmp_path, hazards, code, status):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER.format(python=sys.executable, hazards=hazards, code=code))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = checks.sanitize(tmp_path / "results")
    assert outcome.status == status
    assert outcome.details["tools"]["memcheck"]["summary"] == "ERROR SUMMARY: 0 errors"
    assert outcome.details["tools"]["racecheck"]["summary"] == f"RACECHECK SUMMARY: {hazards} displayed"


# --- the report ------------------------------------------------------------------------------------------------------


def method(name, **changes):
    entry = {
        "case": "MLP, forward",
        "method": name,
        "seconds": 0.002,
        "spread": 0.05,
        "rounds": 50,
        "ratio": 1.5,
        "tflop_per_s": 123.4,
        "gb_per_s": 567.8,
    }
    return entry | changes


def test_the_report_tells_everything_and_is_written_whole(tmp_path):
    outcomes = {
        "install": Outcome(PASSED, "built", seconds=61),
        "fragments": Outcome(FAILED, "1 difference", {"differences": ["load_matrices, lane 5: 1, expected 2"]}),
        "tests": Outcome(
            FAILED,
            "1 failed, 1 passed",
            {
                "tests": [
                    {"name": "test_gpu_large::test_a", "outcome": "skipped", "reason": "needs 40 GB | free"},
                    {"name": "test_gpu_large::test_b", "outcome": "passed", "reason": ""},
                ]
            },
        ),
        "sanitizer": Outcome(NOT_RUN, "compute-sanitizer is not there"),
        "benchmarks": Outcome(
            PASSED,
            "2 methods of 1 case",
            {
                "ceilings": [{"name": "copy", "value": 1555.5, "unit": "GB/s"}],
                "methods": [method("fused", predicted_seconds=0.0015), {**method("loop"), "error": "out of memory"}],
            },
        ),
    }
    report.write(tmp_path, ABOUT, outcomes)
    text = (tmp_path / "report.md").read_text()
    for line in (
        "# GPU check: A GPU",
        "| driver | 1.2 |",
        "| install | passed | 61 s | built |",
        "- load_matrices, lane 5: 1, expected 2",
        "| test_gpu_large::test_a | skipped | needs 40 GB \\| free |",
        "| test_gpu_large | 1 | 2 |",
        "| sanitizer | not run | 0 s | compute-sanitizer is not there |",
        "| copy | 1555.5 GB/s |",
        "### MLP, forward",
        "| fused | 2.000 | 5 % | 50 | 1.50 | 123.4 | 568 | 1.500 |",
        "| loop | out of memory |  |  |  |  |  |  |",
    ):
        assert line in text.splitlines(), line
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["gpu"]["name"] == "A GPU"
    assert len(kept["stages"]["tests"]["details"]["tests"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json"}


def test_an_interrupted_write_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "report.md"
    files.write_text(path, "old")

    def interrupted(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- tests/gpu -------------------------------------------------------------------------------------------------------


def run_pytest(*arguments):
    command_line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True)


def test_tests_of_the_gpu_run_by_name_alone_and_all_of_them_are_marked(pytestconfig):
    assert "gpu" in pytestconfig.getini("norecursedirs")
    finished = run_pytest("--collect-only", "tests/gpu", "-m", "not gpu")
    assert re.search(r"no tests collected \(\d{3,} deselected\)", finished.stdout)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_tests_fail_and_are_not_skipped():
    finished = run_pytest("tests/gpu/test_gpu_errors.py", "-k", "double_backward")
    assert finished.returncode == 1
    assert "these tests need a GPU and a CUDA build of torch. Found none" in finished.stdout
    assert "skipped" not in finished.stdout


# --- predictions -----------------------------------------------------------------------------------------------------


def test_predictions_for_this_gpu_stand_beside_what_was_measured(monkeypatch, tmp_path):
    case = {"model": "ViT-B/32", "B": 16, "numbers": "bfloat16", "what": "forward", "method": "fused"}
    told = [{**case, "gpu": "A100", "seconds": 2.0}, {**case, "gpu": "H100", "seconds": 1.0}]
    script = tmp_path / "predict_cuda.py"
    script.write_text(f"import sys, json\nopen(sys.argv[2], 'w').write(json.dumps({told!r}))\n")
    monkeypatch.setattr(predictions, "PREDICT", script)
    found = predictions.predict("NVIDIA H100 80GB HBM3", tmp_path, {})
    methods = [{**case, "seconds": 1.5}, {**case, "B": 1, "seconds": 1.5}, {"case": "x", "error": "out of memory"}]
    assert predictions.put_beside(methods, found) == 1
    assert [method.get("predicted_seconds") for method in methods] == [1.0, None, None]
    assert predictions.predict("NVIDIA L4", tmp_path, {}) == []


def test_what_is_predicted_of_a_layer_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = runpy.run_path(str(ROOT / "benchmarks" / "bench_cuda.py"))
    methods = [
        {"model": s.mlp.model, "B": s.B, "numbers": s.numbers, "what": s.what, "method": method}
        for s in bench["SETTINGS"]
        for method in ("plain", "fused", "chunked")
    ]
    predicted = predictions.predict("NVIDIA H100", tmp_path, checks.environment())
    # of two models and three batches in bfloat16, forward and with backward
    assert predictions.put_beside(methods, predicted) == 2 * 3 * 2 * 3
