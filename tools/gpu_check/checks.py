"""The stages: install, fragments, tests, sanitizer, benchmarks."""

import ctypes
import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from gpu_check import fragments, predictions
from gpu_check.files import ROOT, write_text
from gpu_check.stages import FAILED, PASSED, NotRunError, Outcome, last_lines, run_command

PYTHON = [sys.executable, "-P"]  # the installed wemoe_ext, never the one of the source tree
HOUR = 3600.0
SANITIZERS = ("memcheck", "racecheck")
ERRORS_FOUND = 86  # the exit code that the sanitizer is asked for


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with modules from tools/ and benchmarks/ alone."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("tools", "benchmarks"))
    return os.environ | {"PYTHONPATH": paths} | changes


def install(results: Path) -> Outcome:
    """Wemoe for CUDA, and what its tests need, beside the torch that is there."""
    pinned = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    constraints = results / "constraints.txt"
    write_text(constraints, "\n".join(line for line in pinned if not line.startswith("torch==")) + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation"]
    command += ["--constraint", str(constraints), "--requirement", "requirements/gpu.txt", "."]
    finished = run_command(command, results / "install.txt", environment(WEMOE_CUDA="1"), HOUR)
    if finished.returncode:
        return Outcome(FAILED, "pip cannot install wemoe", {"error": last_lines(finished.stdout, 60)})
    checked = run_command([*PYTHON, "tools/check_cuda_build.py"], results / "build.txt", environment(), HOUR)
    said = last_lines(checked.stdout, 60)
    if checked.returncode:
        return Outcome(FAILED, "the build is not what it should be", {"error": said})
    return Outcome(PASSED, said.splitlines()[0], {"build": said})


def check_fragments(results: Path, gpu: dict[str, Any], golden: Path, rewrite: bool) -> Outcome:
    """What lies where in a warp's registers, on this GPU, against what the repository keeps of another one."""
    if torch.cuda.get_device_capability() < (8, 0):
        raise NotRunError(f"the instructions came with compute capability 8.0. Found {gpu['capability']}.")
    capability = int(gpu["capability"].replace(".", ""))
    library = ctypes.CDLL(str(fragments.compile_program(results, [capability])))
    answers = fragments.ask(fragments.Caller(library, torch.cuda.synchronize), "cuda")
    fragments.write_golden(results / "fragments.json", gpu, answers)
    details: dict[str, Any] = {"file": "fragments.json"}
    documented = fragments.differences(answers, fragments.documented())
    if documented:
        return Outcome(FAILED, "not the layouts that csrc/cuda/ptx.cuh names", details | {"differences": documented})
    if rewrite:
        fragments.write_golden(golden, gpu, answers)
        return Outcome(PASSED, f"as csrc/cuda/ptx.cuh names them; written to {golden.name}", details)
    if not golden.exists():
        return Outcome(PASSED, "as csrc/cuda/ptx.cuh names them; there is no golden file yet (--golden)", details)
    kept = fragments.read_golden(golden)
    lines = fragments.differences(answers, kept)
    details["golden_gpu"] = kept["gpu"]["name"]
    if lines:
        return Outcome(FAILED, f"{len(lines)} differences from {golden.name}", details | {"differences": lines})
    return Outcome(PASSED, f"as csrc/cuda/ptx.cuh names them, and as on {kept['gpu']['name']}", details)


def run_tests(results: Path) -> Outcome:
    """tests/gpu, each test with its outcome."""
    junit = results / "tests.xml"
    junit.unlink(missing_ok=True)
    command = [*PYTHON, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    finished = run_command(command, results / "tests.txt", environment(), 2 * HOUR)
    if not junit.exists():
        return Outcome(FAILED, "pytest ended without a report", {"error": last_lines(finished.stdout, 60)})
    tests = read_junit(junit)
    counts = Counter(test["outcome"] for test in tests)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no test ran"
    passed = finished.returncode == 0 and counts["passed"] > 0
    return Outcome(PASSED if passed else FAILED, summary, {"tests": tests})


def read_junit(path: Path) -> list[dict[str, str]]:
    """Name, outcome and, but for passed tests, the reason of each test."""
    tests = []
    for case in ElementTree.parse(path).iter("testcase"):
        outcome, reason = "passed", ""
        for kind, name in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
            found = case.find(kind)
            if found is not None:
                outcome, reason = name, found.get("message") or ""
        module = case.get("classname", "").rpartition(".")[2]
        tests.append({"name": f"{module}::{case.get('name')}", "outcome": outcome, "reason": reason})
    return tests


def find_sanitizer() -> Path | None:
    """compute-sanitizer: on PATH, in the toolkit, or among pip's packages."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    pip = sorted((Path(torch.__file__).parents[1] / "nvidia").glob("cu[0-9]*"))
    folders = [None, *(f"{home}/bin" for home in (*named, "/usr/local/cuda", *pip))]  # None stands for PATH
    found = (shutil.which("compute-sanitizer", path=folder) for folder in folders)
    return next((Path(path) for path in found if path), None)


def sanitize(results: Path) -> Outcome:
    """Every op once under each of the sanitizer's tools; racecheck looks at kernels of our own."""
    tool = find_sanitizer()
    if tool is None:
        raise NotRunError("compute-sanitizer is neither on PATH, nor in CUDA_HOME, nor among pip's packages")
    reports = {}
    for name in SANITIZERS:
        ours = ["--kernel-name", "kernel_substring=wemoe"] if name == "racecheck" else []
        command = [str(tool), "--tool", name, "--error-exitcode", str(ERRORS_FOUND), *ours]
        command += [*PYTHON, "-m", "gpu_check.short_run"]
        log = results / f"sanitizer-{name}.txt"
        # blocks of their own, so that one tensor's end is not another's beginning
        finished = run_command(command, log, environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1"), HOUR)
        counted = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", finished.stdout)
        reports[name] = {
            "passed": finished.returncode == 0 and bool(counted),
            "summary": counted[-1] if counted else "no summary, but: " + last_lines(finished.stdout, 1),
            "log": log.name,
        }
    passed = all(report["passed"] for report in reports.values())
    summary = "; ".join(f"{name}: {report['summary']}" for name, report in reports.items())
    return Outcome(PASSED if passed else FAILED, summary, {"tools": reports})


def benchmark(results: Path, gpu: dict[str, Any]) -> Outcome:
    """benchmarks/bench_cuda.py; what is measured is what was checked before."""
    file = results / "benchmarks.json"
    file.unlink(missing_ok=True)
    command = [*PYTHON, "benchmarks/bench_cuda.py", "--json", str(file)]
    finished = run_command(command, results / "benchmarks.txt", environment(), 2 * HOUR)
    if not file.exists():
        return Outcome(FAILED, "no result was written", {"error": last_lines(finished.stdout, 60)})
    measured = json.loads(file.read_text())
    wrong = [entry for entry in measured["methods"] if entry.get("error", "").startswith("wrong")]
    summary = f"{len(measured['methods'])} methods of {len({m['case'] for m in measured['methods']})} cases"
    if predictions.PREDICT.exists():
        try:
            told = predictions.predict(gpu["name"], results, environment())
            summary += f"; {predictions.put_beside(measured['methods'], told)} were predicted"
        except Exception as error:  # what was measured is kept all the same
            return Outcome(FAILED, f"{summary}; without predictions: {error}", measured)
    if wrong or finished.returncode:
        return Outcome(FAILED, f"{summary}; {len(wrong)} gave wrong results", measured)
    return Outcome(PASSED, summary, measured)
