"""One harness for all benchmarks: what ran where, nothing timed before it is checked, ratios in a table at the end."""

import os

import pytest
import torch

import wemoe_ext
from wemoe.info import cpu_model

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))


def pytest_report_header():
    info = wemoe_ext.build_info()
    return (
        f"wemoe: {cpu_model()}, {THREADS} thread(s) of {os.cpu_count()}, "
        f"instruction set {info['cpu_instruction_set']}, torch {torch.__version__}, {info['compiler']}"
    )


@pytest.fixture(autouse=True)
def _same_conditions():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def time_method(benchmark):
    """Times `function` as `method` of `group`; the table gives its ratio to the method named plain."""

    def run(group, method, function):
        benchmark.group = group
        benchmark.extra_info["method"] = method
        benchmark.pedantic(function, rounds=5, iterations=1, warmup_rounds=1)

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    medians = {}
    for benchmark in config._benchmarksession.benchmarks:
        if "method" in benchmark.extra_info and not benchmark.has_error:
            medians.setdefault(benchmark.group, {})[benchmark.extra_info["method"]] = benchmark.stats.median
    if not medians:
        return
    terminalreporter.section("multiples of the plain method")
    for group, times in medians.items():
        if "plain" not in times:
            continue
        others = ", ".join(
            f"{method} {time / times['plain']:.2f}" for method, time in times.items() if method != "plain"
        )
        terminalreporter.write_line(f"{group:60} plain {times['plain'] * 1e3:7.2f} ms; {others}")
