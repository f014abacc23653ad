"""Inspects the compiled CUDA kernels: spills, registers, instructions, occupancy. Needs nvcc and nvdisasm, no GPU.

Run as ``python tools/inspect_cuda.py [--architectures 80 90] [--jobs 2]``. It prints a table for each architecture,
writes build/cuda-inspect/report.json, and ends with 1, naming kernel, rule and what was found, where a kernel is not
what tools/cuda_inspection/expectations.py says of it.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from cuda_inspection.expectations import TABLE
from cuda_inspection.report import print_table, record
from cuda_inspection.resources import ask_occupancy, ask_shared_memory
from cuda_inspection.rules import check
from cuda_inspection.toolchain import ROOT, build_host_program, inspect

ARCHITECTURES = (80, 86, 90, 100, 120)


def main() -> None:
    """Compiles every file for every architecture, and checks all kernels."""
    arguments = argparse.ArgumentParser(description="Inspect the compiled CUDA kernels.")
    arguments.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    arguments.add_argument("--jobs", type=int, default=2, help="files that compile at a time")
    arguments.add_argument("--folder", type=Path, default=ROOT / "build" / "cuda-inspect")
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    shared = ask_shared_memory(build_host_program("shared_memory.cu", options.folder))
    occupancy = build_host_program("occupancy.cpp", options.folder)
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    tasks = list(product(options.architectures, sources))
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda task: inspect(task[1], task[0], options.folder), tasks))

    records, failures = [], []
    for architecture in options.architectures:
        kernels = [
            kernel for task, part in zip(tasks, found, strict=True) if task[0] == architecture for kernel in part
        ]
        occupied = ask_occupancy(occupancy, kernels, architecture, shared, TABLE)
        print_table(kernels, architecture, shared, occupied)
        for kernel, blocks in zip(kernels, occupied, strict=True):
            broken = check(kernel, architecture, TABLE, blocks)
            failures += broken
            records.append(record(kernel, architecture, shared, blocks, broken))
    (options.folder / "report.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for failure in failures:
        print(failure)
    print(f"{len(records)} kernels inspected, {len(failures)} rules broken")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
