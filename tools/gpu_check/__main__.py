"""Runs every check that needs a GPU and writes one report: `make gpu-check`, or `python -m gpu_check` beside tools/."""

import argparse
import datetime
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu_check import checks, report
from gpu_check.files import RESULTS, ROOT
from gpu_check.fragments import GOLDEN
from gpu_check.gpu import NoGpuError, describe_gpu
from gpu_check.stages import FAILED, Outcome, run_stage


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--golden", action="store_true", help=f"write this GPU's answers to {GOLDEN.relative_to(ROOT)}")
    parser.add_argument("--only", action="append", metavar="STAGE", help="run one stage alone; may be repeated")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the report goes")
    return parser.parse_args(arguments)


def stages_of(results: Path, gpu: dict[str, Any], golden: bool) -> dict[str, Callable[[], Outcome]]:
    """Every stage by name, in the order in which they run."""
    return {
        "install": partial(checks.install, results),
        "fragments": partial(checks.check_fragments, results, gpu, GOLDEN, golden),
        "tests": partial(checks.run_tests, results),
        "sanitizer": partial(checks.sanitize, results),
        "benchmarks": partial(checks.benchmark, results, gpu),
    }


def run(stages: dict[str, Callable[[], Outcome]], gpu: dict[str, Any], results: Path) -> int:
    """Runs the stages, writes the report after each of them, and tells how many failed."""
    outcomes: dict[str, Outcome] = {}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for name, function in stages.items():
        print(f"gpu-check: {name} ...", flush=True)
        outcomes[name] = outcome = run_stage(function)
        print(f"gpu-check: {name} {outcome.status} after {outcome.seconds:.0f} s: {outcome.summary}", flush=True)
        report.write(results, {"started": started, "commit": commit(), "gpu": gpu}, outcomes)
    print(f"gpu-check: see {results / 'report.md'}")
    return sum(outcome.status == FAILED for outcome in outcomes.values())


def commit() -> str:
    """The commit that is checked, with a word where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    return described.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where nothing failed, 1 where a stage did, 2 without a GPU or for a stage that there is not."""
    options = parse(arguments)
    try:
        gpu = describe_gpu()
    except NoGpuError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    stages = stages_of(options.results.absolute(), gpu, options.golden)
    unknown = [name for name in options.only or () if name not in stages]
    if unknown:
        print(f"error: --only must be one of {', '.join(stages)}. Found {unknown[0]}.", file=sys.stderr)
        return 2
    chosen = {name: stage for name, stage in stages.items() if not options.only or name in options.only}
    return 1 if run(chosen, gpu, options.results.absolute()) else 0


if __name__ == "__main__":
    sys.exit(main())
