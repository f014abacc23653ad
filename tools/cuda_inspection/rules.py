"""What can be asked of a compiled kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cuda_inspection.kernels import Kernel

SMALL_SHARED = (86, 120)  # architectures that have 100 KB of shared memory, where others have 164 and more


@dataclass(frozen=True)
class Rule:
    """Something that must hold, with its reason; `found` tells what does, and `holds` judges it."""

    text: str
    reason: str
    found: Callable[[Kernel], int]
    holds: Callable[[int], bool]


def exactly(number: int, opcode: str, reason: str) -> Rule:
    """So many of an instruction, no more and no less: all loops around it are unrolled."""
    return Rule(f"{opcode} = {number}", reason, lambda kernel: kernel.count(opcode), lambda found: found == number)


def at_least(number: int, opcode: str, reason: str, modifier: str | None = None) -> Rule:
    """So many of an instruction, or more where the compiler made copies of a loop's body."""
    name = opcode if modifier is None else f"{opcode}.{modifier}"
    return Rule(
        f"{name} >= {number}", reason, lambda kernel: kernel.count(opcode, modifier), lambda found: found >= number
    )


def none_but(modifier: str, opcode: str, reason: str) -> Rule:
    """An instruction only in this width; that it is there is a rule of its own."""
    return Rule(
        f"{opcode} not .{modifier} = 0",
        reason,
        lambda kernel: kernel.count(opcode) - kernel.count(opcode, modifier),
        lambda found: found == 0,
    )


# What holds for every kernel.
COMMON = (
    Rule("spilled bytes = 0", "registers were counted for", lambda kernel: kernel.spilled, lambda found: found == 0),
    Rule(
        "stack bytes = 0", "arrays live in registers: every index is known", lambda k: k.stack, lambda found: found == 0
    ),
    exactly(0, "LDL", "no local memory"),
    exactly(0, "STL", "no local memory"),
    exactly(0, "RED", "no atomic sums: results are the same run after run"),
    exactly(0, "ATOM", "no atomic sums"),
    exactly(0, "ATOMG", "no atomic sums"),
)


@dataclass(frozen=True)
class Expectation:
    """What is expected of all kernels whose names match a pattern."""

    pattern: str  # of fnmatch
    threads: int  # of a block
    registers: int  # at most
    blocks: int  # that share a multiprocessor, at least
    reason: str  # of these three
    rules: tuple[Rule, ...]
    blocks_in_100_kb: int | None = None  # where shared memory is small, if others
    dynamic_shared: bool = True  # whether it is launched with some

    def blocks_on(self, architecture: int) -> int:
        """How many blocks are to share a multiprocessor."""
        if self.blocks_in_100_kb is not None and architecture in SMALL_SHARED:
            return self.blocks_in_100_kb
        return self.blocks


@dataclass(frozen=True)
class Failure:
    """A rule that a kernel breaks."""

    architecture: int
    kernel: str
    rule: str
    found: str
    reason: str

    def __str__(self) -> str:
        return f"sm_{self.architecture} {self.kernel}: expected {self.rule} ({self.reason}). Found {self.found}."


def find_expectation(table: tuple[Expectation, ...], name: str) -> Expectation | None:
    """The one entry for a kernel; None if there is none or more than one."""
    found = [entry for entry in table if fnmatchcase(name, entry.pattern)]
    return found[0] if len(found) == 1 else None


def check(kernel: Kernel, architecture: int, table: tuple[Expectation, ...], blocks: int) -> list[Failure]:
    """All rules that a kernel breaks, which `blocks` of share a multiprocessor."""

    def fail(rule: str, found: object, reason: str) -> Failure:
        return Failure(architecture, kernel.name, rule, str(found), reason)

    entry = find_expectation(table, kernel.name)
    if entry is None:
        matching = [entry.pattern for entry in table if fnmatchcase(kernel.name, entry.pattern)]
        return [
            fail("one entry in tools/cuda_inspection/expectations.py", matching or "none", "no kernel is unchecked")
        ]
    failures = [
        fail(rule.text, rule.found(kernel), rule.reason)
        for rule in (*COMMON, *entry.rules)
        if not rule.holds(rule.found(kernel))
    ]
    if kernel.registers > entry.registers:
        failures.append(fail(f"registers <= {entry.registers}", kernel.registers, entry.reason))
    if blocks < entry.blocks_on(architecture):
        failures.append(fail(f"blocks a multiprocessor >= {entry.blocks_on(architecture)}", blocks, entry.reason))
    return failures
