"""The performance regression test: compares what `make bench-check` measured with the committed baseline.

A baseline holds, for each instruction set, number of threads and minor version of torch, the judged number of every
case: a ratio to the plain layer measured in the same run, or megabytes. Where it knows nothing of this machine, the
numbers are told and nothing fails. A bound that the baseline itself misses is told too, and fails only by the margin.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wemoe.files import write_text

BASELINE = Path(__file__).with_name("baseline.json")

# A number may exceed the baseline's by this part of it. Between four runs of the same code, on two cores that others
# used too, the numbers of a case had a standard deviation of 3 % and differed by 12 % at most.
MARGIN = 0.15


class Measured(NamedTuple):
    """The judged number of a case, the bound on it that holds on this machine, and whether it belongs in a baseline."""

    value: float
    at_most: float | None
    in_baseline: bool


class BaselineError(ValueError):
    """The baseline is missing or damaged."""


def read_report(path: Path) -> tuple[str, dict[str, Measured]]:
    """Reads pytest-benchmark's report: the key of the machine, and what was measured by case."""
    benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    measured = {}
    for benchmark in benchmarks:
        info, case = benchmark["extra_info"], benchmark["extra_info"]["case"]
        if info["method"] == case["ours"]:
            at_most = case["at_most"] if case["binding"] else None
            measured[benchmark["group"]] = Measured(info[case["judged"]], at_most, case["in_baseline"])
    info = benchmarks[0]["extra_info"]
    torch = ".".join(info["torch"].split(".")[:2])
    return f"{info['instruction_set']}/{info['threads']} thread(s)/torch {torch}", measured


def read_baseline(path: Path) -> dict[str, dict[str, float]]:
    """Reads the numbers of all keys.

    Raises:
        BaselineError: the file is missing, no JSON, or not {key: {case: number}}.
    """
    rule = f"{path.name} must be JSON of the form {{key: {{case: number}}}}"
    try:
        baseline = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BaselineError(f"{rule}; found no file {path}") from error
    except ValueError as error:
        raise BaselineError(f"{rule}; found no JSON: {error}") from error
    entries = baseline.values() if isinstance(baseline, dict) else [baseline]
    for entry in entries:
        if not isinstance(entry, dict) or not all(type(number) in (int, float) for number in entry.values()):
            raise BaselineError(f"{rule}; found {json.dumps(entry)[:80]}")
    return baseline


def compare(measured: Mapping[str, Measured], known: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Returns a line for each case, and a line for each reason to fail."""
    lines, failures = [], []
    for name, (value, at_most, _) in measured.items():
        line = f"{name:60} {value:8.3f}"
        if name in known:
            line += f"  baseline {known[name]:.3f}"
            if value - known[name] > MARGIN * abs(known[name]):
                failures.append(f"{name}: {value:.3f} is more than {MARGIN:.0%} above the baseline's {known[name]:.3f}")
        if at_most is not None:
            line += f"  at most {at_most:.3g}"
            if value > at_most and known.get(name, 0) > at_most:
                line += "  above it, as the baseline is"
            elif value > at_most:
                failures.append(f"{name}: {value:.3f} is above {at_most:.3g}, the most that it may be")
        lines.append(line)
    failures += [f"{name}: is in the baseline and was not measured" for name in known if name not in measured]
    return lines, failures


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 after a regression, 2 without a baseline that can be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what was measured: pytest's --json")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--update", action="store_true", help="make what was measured this machine's baseline")
    options = parser.parse_args(arguments)

    key, measured = read_report(options.report)
    try:
        baseline = read_baseline(options.baseline)
    except BaselineError as error:
        print(error)
        return 2
    if options.update:
        baseline[key] = {name: round(case.value, 3) for name, case in measured.items() if case.in_baseline}
        write_text(options.baseline, json.dumps(baseline, indent=2, sort_keys=True) + "\n")
        print(f"{options.baseline.name} now holds {len(baseline[key])} numbers of {key}")
        return 0
    lines, failures = compare(measured, baseline.get(key, {}))
    print(key, *lines, sep="\n")
    if key not in baseline:
        print(f"\nno baseline of {key}: nothing is judged. Record one with: make bench-check ARGS=--update")
        return 0
    print(
        "",
        *(failures or [f"no number is more than {MARGIN:.0%} above the baseline, and no bound is newly missed"]),
        sep="\n",
    )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
