"""What ptxas and nvdisasm say of the kernels of a file."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Kernel:
    """A kernel compiled for one architecture."""

    symbol: str
    name: str = ""  # as the source has it, template arguments included
    registers: int = 0
    stack: int = 0  # bytes a thread
    spilled: int = 0  # bytes a thread that are stored and loaded because registers are short
    static_shared: int = 0  # bytes a block
    opcodes: Counter[str] = field(default_factory=Counter)  # with their modifiers: LDGSTS.E.BYPASS.128

    def count(self, opcode: str, modifier: str | None = None) -> int:
        """How often an instruction stands in the code, with a modifier or with any."""
        parts = ((name.split("."), times) for name, times in self.opcodes.items())
        return sum(times for part, times in parts if part[0] == opcode and (modifier is None or modifier in part))


def read_ptxas(report: str) -> dict[str, Kernel]:
    """Reads what `ptxas -v` reports: kernels by symbol. Functions that are not kernels are passed over."""
    kernels: dict[str, Kernel] = {}
    kernel = Kernel("")
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = kernels[found[1]] = Kernel(found[1])
        elif found := re.search(r"Function properties for (\w+)", line):
            kernel = kernels.get(found[1], Kernel(found[1]))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernel.stack, kernel.spilled = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernel.registers = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernel.static_shared = int(shared[1]) if shared else 0
    return kernels


INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)")


def count_opcodes(listing: str) -> dict[str, Counter[str]]:
    """Counts the instructions of each function in what `nvdisasm -c` prints."""
    functions: dict[str, Counter[str]] = {}
    opcodes: Counter[str] = Counter()
    for line in listing.splitlines():
        if found := re.match(r"\s*\.text\.(\w+):", line):
            opcodes = functions.setdefault(found[1], Counter())
        elif found := INSTRUCTION.match(line):
            opcodes[found[1]] += 1
    return functions


def read_names(symbols: list[str]) -> list[str]:
    """The names of mangled symbols, without result, parameters and the project's namespaces."""
    command = ["c++filt", "--no-params"]
    found = subprocess.run(command, input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    return [short_name(line) for line in found.splitlines()]


def short_name(name: str) -> str:
    """A demangled name without result, parameters and namespaces."""
    name = re.sub(r"wemoe::cuda::|\(anonymous namespace\)::", "", name)
    return name.removeprefix("void ").split("(")[0].replace("> >", ">>")


def read_kernels(report: str, listing: str) -> list[Kernel]:
    """The kernels that ptxas reported, with their names and instructions."""
    kernels = list(read_ptxas(report).values())
    functions = count_opcodes(listing)
    for kernel, name in zip(kernels, read_names([kernel.symbol for kernel in kernels]), strict=True):
        kernel.name, kernel.opcodes = name, functions[kernel.symbol]
    return sorted(kernels, key=lambda kernel: kernel.name)
