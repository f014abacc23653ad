"""benchmarks/bench_cuda.py, tiny and on the CPU: what is timed is right, what is wrong is told."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "fused")  # so that what is set there is undone
    return runpy.run_path(str(ROOT / "benchmarks" / "bench_cuda.py"))


class FakeClock:
    """Calls what it times, and says that each call took a millisecond longer than the one before."""

    def __init__(self):
        self.calls = 0

    def __call__(self, function):
        function()
        self.calls += 1
        return self.calls / 1e3


@pytest.mark.parametrize("numbers", ["bfloat16", "float16", "tf32", "float32"])
@pytest.mark.parametrize("what", ["forward", "forward + backward"])
@pytest.mark.parametrize("B", [1, 3])
def test_every_method_is_checked_and_timed(bench, B, what, numbers):
    setting = bench["Setting"](bench["MLP"]("tiny", N=5, D=32, F=64, T=3), B, numbers, what)
    told = []
    entries = bench["measure"]([setting], torch.device("cpu"), FakeClock(), told.append)
    assert [entry["method"] for entry in entries] == ["plain", "fused", "chunked", "vectorised", "loop"]
    assert not any("error" in entry for entry in entries)
    assert len(told) == len(entries)
    for entry in entries:
        assert entry["ratio"] > 0
        assert entry["rounds"] >= 3
        assert entry["tflop_per_s"] == pytest.approx(
            setting.work_of(entry["method"]).operations / entry["seconds"] / 1e12
        )
    assert entries[0]["ratio"] == 1


def test_wrong_results_are_told_and_not_timed(bench, monkeypatch):
    methods = bench["Methods"]
    routed = methods.routed

    def wrong(self, path):
        return 1.1 * routed(self, path) if path == "fused" else routed(self, path)

    monkeypatch.setattr(methods, "routed", wrong)
    setting = bench["Setting"](bench["MLP"]("tiny", N=5, D=32, F=64, T=3), 2, "float32", "forward")
    entries = {e["method"]: e for e in bench["measure"]([setting], torch.device("cpu"), FakeClock(), lambda line: None)}
    assert entries["fused"]["error"].startswith("wrong: y differs by")
    assert "seconds" not in entries["fused"]
    assert "error" not in entries["chunked"]


def test_a_method_that_has_no_memory_is_told(bench, monkeypatch):
    def greedy(self, path):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench["Methods"], "routed", greedy)
    setting = bench["Setting"](bench["MLP"]("tiny", N=5, D=32, F=64, T=3), 2, "bfloat16", "forward")
    entries = {e["method"]: e for e in bench["measure"]([setting], torch.device("cpu"), FakeClock(), lambda line: None)}
    assert entries["fused"]["error"] == entries["chunked"]["error"] == "out of memory"
    assert "error" not in entries["loop"]


def test_ceilings_are_rates_of_what_was_timed(bench):
    def clock(function):
        function()
        return 1e-3

    ceilings = bench["measure_ceilings"](torch.device("cpu"), clock, shrink=256, rounds=2)
    found = {ceiling["name"]: ceiling["value"] for ceiling in ceilings}
    assert list(found) == ["copy", "bfloat16 product", "float16 product", "float32 product", "tf32 product"]
    assert found["copy"] == pytest.approx(2 * 2**22 / 1e-3 / 1e9)
    assert found["bfloat16 product"] == pytest.approx(2 * 32**3 / 1e-3 / 1e12)


def test_a_machine_without_a_gpu_is_refused(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench["main"](["--json", str(tmp_path / "x.json")]) == 2
    assert "bench_cuda.py needs a GPU. Found none" in capsys.readouterr().err
