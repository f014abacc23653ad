"""What the checked build of the emulator says, with the lines of the sources that it speaks of."""

import functools
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Race:
    """A rule that an access broke, found whatever order threads ran in; the first of each line.

    Attributes:
        what: The rule.
        place: ``file:line`` of the access.
        memory: The buffer's name, ``dynamic shared`` or ``static shared``.
        offset: In bytes, from the start of the memory.
        thread: That made the access.
        other: Whose access it collides with, or -1.
        block: ``x y z``.
    """

    what: str
    place: str
    memory: str
    offset: int
    thread: int
    other: int
    block: str

    def __str__(self) -> str:
        other = f", with thread {self.other}" if self.other >= 0 else ""
        where = f"{self.memory}+{self.offset} by thread {self.thread}{other}, block ({self.block})"
        return f"{self.what}: {self.place}: {where}"


@dataclass(frozen=True)
class Access:
    """The loads or stores of one line.

    Attributes:
        place: ``file:line``.
        kind: ``shared load``, ``shared store``, ``global load`` or ``global store``.
        bytes: Of the widest access of a lane.
        instructions: Of warps.
        transactions: Wavefronts of shared memory, or sectors of 32 bytes of global memory.
        ideal: Transactions without conflicts and without bytes that nobody asked for.
    """

    place: str
    kind: str
    bytes: int
    instructions: int
    transactions: int
    ideal: int

    @property
    def ratio(self) -> float:
        """1 is ideal."""
        return self.transactions / self.ideal

    def __str__(self) -> str:
        return f"{self.place}: {self.kind} of {self.bytes} B, {self.instructions} times, ratio {self.ratio:.2f}"


@dataclass(frozen=True)
class Report:
    """Findings and figures of one call; of the plain build, nothing.

    Attributes:
        races: Races, reads of what nobody wrote, accesses out of bounds or not aligned: all that must be empty.
        accesses: Costs by line and kind.
        read_bytes: Of each buffer, by name; what several lanes of one instruction read counts once.
        written_bytes: The same of stores.
    """

    races: list[Race]
    accesses: list[Access]
    read_bytes: dict[str, int]
    written_bytes: dict[str, int]

    def worst(self, kind: str) -> float:
        """The highest ratio of any line whose kind starts like this (``shared``, ``global store``)."""
        return max((access.ratio for access in self.accesses if access.kind.startswith(kind)), default=1.0)


def read_report(text: str, library: Path, sources: Path) -> Report:
    """Reads the library's lines of fields."""
    lines = [line.split("\t") for line in text.splitlines()]
    places = find_places([fields[_PLACE[fields[0]]] for fields in lines if fields[0] in _PLACE], library, sources)
    races, read, written = [], {}, {}
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for kind, *fields in lines:
        if kind == "finding":
            what, place, memory, offset, thread, other, block = fields
            races.append(Race(what, places[place], memory, int(offset), int(thread), int(other), block))
        elif kind == "access":
            total = totals[places[fields[0]], fields[1]]
            total[0] = max(total[0], int(fields[2]))
            for i in (1, 2, 3):
                total[i] += int(fields[2 + i])
        else:
            read[fields[0]], written[fields[0]] = int(fields[1]), int(fields[2])
    return Report(list(dict.fromkeys(races)), [Access(*key, *total) for key, total in totals.items()], read, written)


_PLACE = {"finding": 2, "access": 1}  # the field that tells the place


def read_failure(text: str, library: Path, sources: Path) -> str:
    """A failed launch in one line."""
    message, place, thread, block = text.split("\t")
    if not place:
        return message
    return f"{message}: {find_places([place], library, sources)[place]}, thread {thread}, block ({block})"


def find_places(places: list[str], library: Path, sources: Path) -> dict[str, str]:
    """``file:line`` of each place, relative to the sources where it lies in them.

    Args:
        places: ``file:line``, or ``+offset`` of an instruction in the library.
        library: The library.
        sources: The folder of kernels. An instruction belongs to the innermost inlined function of that folder.
    """
    offsets = tuple(sorted({place for place in places if place.startswith("+")}))
    found = _look_up(offsets, library, library.stat().st_mtime_ns, sources) if offsets else {}
    return {place: found.get(place) or _shorten(place, sources) for place in places}


def _shorten(place: str, sources: Path) -> str:
    path, _, line = place.rpartition(":")
    path = Path(path).resolve()
    return f"{path.relative_to(sources.resolve()) if path.is_relative_to(sources.resolve()) else path.name}:{line}"


@functools.lru_cache(maxsize=64)
def _look_up(offsets: tuple[str, ...], library: Path, _: int, sources: Path) -> dict[str, str]:
    # a return address is one past the call
    addresses = "\n".join(hex(int(offset) - 1) for offset in offsets)
    command = ["addr2line", "--inlines", "--addresses", "--exe", str(library)]
    text = subprocess.run(command, input=addresses, capture_output=True, text=True, check=True).stdout
    frames: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("0x"):
            frames.append([])
        else:
            frames[-1].append(line.split(" ")[0])
    return {offset: _choose(chain, sources) for offset, chain in zip(offsets, frames, strict=True)}


def _choose(chain: list[str], sources: Path) -> str:
    root = str(sources.resolve())
    own = [place for place in chain if str(Path(place).resolve()).startswith(root)]
    return _shorten((own or chain)[0], sources)
