"""What was found, as a table for people and as records for programs."""

from typing import Any

from cuda_inspection.kernels import Kernel
from cuda_inspection.resources import Shared
from cuda_inspection.rules import Failure

# column: instruction and the modifier that is counted
INSTRUCTIONS = {
    "HMMA": ("HMMA", None),
    "FFMA": ("FFMA", None),
    "LDSM": ("LDSM", None),
    "LDGSTS.128": ("LDGSTS", "128"),
    "LDG.128": ("LDG", "128"),
    "STG.128": ("STG", "128"),
    "STG": ("STG", None),
}


def print_table(kernels: list[Kernel], architecture: int, shared: Shared, blocks: list[int]) -> None:
    """Prints a line for each kernel."""
    print(f"\nsm_{architecture}")
    width = max((len(kernel.name) for kernel in kernels), default=0)
    columns = ("registers", "spilled", "stack", "shared", "blocks", *INSTRUCTIONS)
    print(" ".join(("kernel".ljust(width), *columns)))
    for kernel, fitting in zip(kernels, blocks, strict=True):
        row = record(kernel, architecture, shared, fitting, [])
        print(" ".join((kernel.name.ljust(width), *(str(row[column]).rjust(len(column)) for column in columns))))
    print()


def record(kernel: Kernel, architecture: int, shared: Shared, blocks: int, broken: list[Failure]) -> dict[str, Any]:
    """Everything that is known of a kernel."""
    return {
        "architecture": architecture,
        "kernel": kernel.name,
        "registers": kernel.registers,
        "spilled": kernel.spilled,
        "stack": kernel.stack,
        "shared": kernel.static_shared + shared.get((architecture, kernel.name), 0),
        "blocks": blocks,
        **{column: kernel.count(*instruction) for column, instruction in INSTRUCTIONS.items()},
        "broken": [str(failure) for failure in broken],
        "opcodes": dict(sorted(kernel.opcodes.items())),
    }
