"""What a launched kernel takes of a multiprocessor: dynamic shared memory, and how many blocks fit."""

from pathlib import Path

from cuda_inspection.kernels import Kernel, short_name
from cuda_inspection.rules import Expectation, find_expectation
from cuda_inspection.toolchain import run

Shared = dict[tuple[int, str], int]  # dynamic bytes of a block, by architecture and kernel


def read_shared_memory(lines: str) -> Shared:
    """Reads lines of "capability bytes kernel"."""
    shared = {}
    for line in lines.splitlines():
        capability, count, name = line.split(" ", 2)
        shared[int(capability), short_name(name)] = int(count)
    return shared


def ask_shared_memory(program: Path) -> Shared:
    """Dynamic shared memory of all kernels, from the launchers' own functions (shared_memory.cu)."""
    return read_shared_memory(run(program).stdout)


def ask_occupancy(
    program: Path, kernels: list[Kernel], architecture: int, shared: Shared, table: tuple[Expectation, ...]
) -> list[int]:
    """How many blocks of each kernel share a multiprocessor (occupancy.cpp); 0 for a kernel that is not known."""
    lines = []
    for kernel in kernels:
        entry = find_expectation(table, kernel.name)
        dynamic = shared.get((architecture, kernel.name), 0)
        # no block has no threads: that is what comes out where the shared memory that a kernel needs is not told
        known = entry is not None and (dynamic > 0) == entry.dynamic_shared
        threads = entry.threads if entry is not None and known else 0
        lines.append(f"{architecture} {threads} {kernel.registers} {dynamic + kernel.static_shared}")
    answers = run(program, text="\n".join(lines)).stdout.split()
    return [max(int(answer), 0) for answer in answers]
