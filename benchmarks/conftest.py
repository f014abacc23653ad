"""One harness for all benchmarks: nothing is timed before it is checked, and methods are timed in turn."""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
import tables
import torch
from cases import Case
from in_turn import time_in_turn
from machine import THREADS

import wemoe_ext
from wemoe.info import cpu_model
from wemoe_ext.testing import peak_bytes


def pytest_addoption(parser):
    parser.addoption(
        "--json",
        dest="benchmark_json",
        type=Path,
        metavar="FILE",
        help="write what was measured to FILE; the same as --benchmark-json",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "guard: what `make bench-check` runs, against regressions")


def pytest_report_header():
    info = wemoe_ext.build_info()
    return (
        f"wemoe: {cpu_model()}, {THREADS} thread(s) of {os.cpu_count()}, "
        f"instruction set {info['cpu_instruction_set']}, torch {torch.__version__}, {info['compiler']}"
    )


def pytest_benchmark_update_machine_info(machine_info):
    """Results are shared; the name of the machine is not."""
    del machine_info["node"]


@pytest.fixture(autouse=True)
def _same_conditions():
    gc.collect()  # models of the case before, which hold themselves in cycles
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def record(benchmark, request):
    """Records the methods of a case, each as a benchmark of its own: the seconds of its rounds, and its bytes."""
    benchmark._mode = "compare"

    def run(case: Case, times: Mapping[str, list[float]], allocated: Mapping[str, int]) -> None:
        for method in times:
            benchmark.name = f"{request.node.name} {method}"
            benchmark.fullname = f"{request.node.nodeid} {method}"
            _record(benchmark, case, method, times, allocated)

    return run


@pytest.fixture
def compare(benchmark, record):
    """Checks the methods of a case, times them in turn, and records each as a benchmark of its own.

    The first call of each method warms up, is measured for its memory, and gives the output that is handed to
    `check(outputs)`. With --benchmark-disable nothing follows.
    """

    def run(
        case: Case, methods: Mapping[str, Callable[[], object]], check: Callable[[dict[str, object]], object]
    ) -> None:
        outputs, allocated = {}, {}
        for method, function in methods.items():
            outputs[method], allocated[method] = _first_call(function)
        check(outputs)
        outputs.clear()
        if benchmark.enabled:
            times = time_in_turn(methods, judged=(case.ours, case.over) if case.judged == "ratio" else ())
            record(case, times, allocated)

    return run


def _first_call(function: Callable[[], object]) -> tuple[object, int]:
    outputs = []
    peak = peak_bytes(lambda: outputs.append(function()))
    return outputs[0], peak


def _record(benchmark, case: Case, method: str, times: Mapping[str, list[float]], allocated: Mapping[str, int]) -> None:
    """pytest-benchmark times one method per test; its own way of adding one more is not part of its interface."""
    work, seconds = case.work_of(method), median(times[method])
    # steadier than the ratio of the medians, by half where rounds are few
    ratio = median(one / other for one, other in zip(times[method], times[case.over], strict=False))
    benchmark.group = case.name
    benchmark.extra_info = {
        "method": method,
        "ratio": ratio,
        "extra_megabytes": (allocated[method] - allocated[case.over]) / 1e6,
        "gflop_per_s": work.operations / seconds / 1e9,
        "gb_per_s": work.bytes / seconds / 1e9,
        "bytes_allocated": allocated[method],
        "threads": THREADS,
        "instruction_set": wemoe_ext.build_info()["cpu_instruction_set"],
        "torch": torch.__version__,
        "case": {name: value for name, value in asdict(case).items() if name not in ("work", "other_work")},
    }
    stats = benchmark._make_stats(iterations=1)
    for duration in times[method]:
        stats.update(duration)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    entries = [entry for entry in config._benchmarksession.benchmarks if entry and not entry.has_error]
    if entries:
        terminalreporter.section("medians; operations and bytes are the least that a method needs")
        for line in tables.details(entries):
            terminalreporter.write_line(line)
        terminalreporter.section("multiples of the plain method")
        for line in tables.verdicts(entries):
            terminalreporter.write_line(line)
