"""Builds the CUDA kernels for the host, runs them on CPU tensors, and reads what the checked build found.

A kernel's author adds ``tests/cuda_emulator/api_X.cpp``, which calls the launchers of ``csrc/cuda/X.h``::

    extern "C" int emulated_double_it(int64_t count, const float* x, float* y) {
      return wemoe::cuda::double_it(count, x, y, nullptr);
    }

and a test, which runs it under every schedule and then in the checked build::

    @pytest.mark.emulated
    @pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
    def test_doubles(kernels, schedule):
        y, _ = kernels.run("emulated_double_it", 5, {"x": x, "y": Output(x.shape, x.dtype)}, schedule=schedule)
        assert y.equal(2 * x)

    @pytest.mark.emulated
    def test_is_clean(checked_kernels):
        _, report = checked_kernels.run("emulated_double_it", 5, {"x": x, "y": Output(x.shape, x.dtype)})
        assert report.races == []
        assert report.read_bytes["x"] == 5 * 4

Tensors go in dictionaries, whose keys name them in reports, in the order of the function's pointers; None is a null
pointer. All other arguments are passed as ctypes takes them.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ninja
import torch
from torch import Tensor

from emulator_report import read_failure, read_report

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
EMULATOR = ROOT / "tests" / "cuda_emulator"
BUILD = ROOT / "build" / "cuda-emulator"

ORDERS = ("ascending", "descending", "warp priorities")
COPIES = ("at issue", "at wait", "tossed")


class EmulationError(RuntimeError):
    """A launch that could not be emulated to its end, or that broke a rule of CUDA."""


@dataclass(frozen=True)
class Schedule:
    """In which order threads run, and when asynchronous copies take effect.

    Attributes:
        order: ``ascending`` or ``descending``: the first or last thread that can run, does. ``warp priorities``: one
            warp runs as far as it can, then the next one; in an order that is drawn, and changes now and then.
        copies: ``at issue``, ``at wait``, or ``tossed``: by a coin for each copy.
        seed: Of what is drawn.
    """

    order: str
    copies: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.order}, copies {self.copies}"


# Missing waits show where copies come late, missing barriers before a buffer is filled again where they come early;
# both where a coin decides. Missing barriers show where warps run apart from one another, in any of these orders.
SCHEDULES = (
    Schedule("ascending", "tossed", seed=1),
    Schedule("descending", "at wait"),
    Schedule("warp priorities", "at issue", seed=2),
)


@dataclass(frozen=True)
class Output:
    """A tensor that a kernel writes: it starts as NaN, or as -1 in integers."""

    shape: Sequence[int]
    dtype: torch.dtype


class Buffer:
    """A tensor's bytes at a multiple of 256, between guards of NaN: what is read past its end shows."""

    GUARD_BYTES = 4096
    ALIGNMENT = 256

    def __init__(self, name: str, given: Tensor | Output) -> None:
        self.name, self.given = name, given
        count = given.numel() if isinstance(given, Tensor) else torch.Size(given.shape).numel()
        self.bytes = count * given.dtype.itemsize
        self._memory = torch.full((self.bytes + 2 * self.GUARD_BYTES + self.ALIGNMENT,), 255, dtype=torch.uint8)
        self._start = self.GUARD_BYTES + -self._memory.data_ptr() % self.ALIGNMENT
        self.address = self._memory.data_ptr() + self._start
        if isinstance(given, Tensor):
            self.tensor.copy_(given)

    @property
    def tensor(self) -> Tensor:
        """What the buffer holds now."""
        held = self._memory[self._start : self._start + self.bytes]
        return held.view(self.given.dtype).view(tuple(self.given.shape))

    def broken_rules(self) -> list[str]:
        """What was written where nothing may be."""
        rules = []
        before, after = self._memory[: self._start], self._memory[self._start + self.bytes :]
        if not ((before == 255).all() and (after == 255).all()):
            rules.append(f"{self.name}: something was written before or after its {self.bytes} bytes.")
        if isinstance(self.given, Tensor) and not _same_bits(self.tensor, self.given):
            rules.append(f"{self.name}: an input was written to.")
        return rules


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return bool((one.contiguous().view(torch.uint8) == other.contiguous().view(torch.uint8)).all())


class Library:
    """Emulated kernels, by the names of the functions that launch them."""

    def __init__(self, path: Path, checked: bool, sources: Path) -> None:
        self.path, self.checked, self.sources = path, checked, sources
        self.functions = ctypes.CDLL(str(path))
        self.functions.emulator_schedule.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
        self.functions.emulator_track.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_bool]
        self.functions.emulator_failure.restype = ctypes.c_char_p
        self.functions.emulator_findings.restype = ctypes.c_char_p

    def run(self, name: str, *arguments: object, schedule: Schedule = SCHEDULES[0]) -> tuple:
        """Calls a function that launches kernels.

        Args:
            name: Of the function; it returns an error code.
            arguments: A dictionary stands for one pointer for each of its tensors, outputs and Nones.
            schedule: How threads and copies take turns.

        Returns:
            The outputs, in their order, and last the report, which the plain build leaves empty.

        Raises:
            EmulationError: The launch was abandoned, or something was written where nothing may be.
        """
        self.functions.emulator_reset()
        self.functions.emulator_schedule(ORDERS.index(schedule.order), COPIES.index(schedule.copies), schedule.seed)
        buffers: list[Buffer] = []
        passed = [value for argument in arguments for value in self._pass(argument, buffers)]
        error = getattr(self.functions, name)(*passed)
        self.raise_failure(name, error)
        report = read_report(self.functions.emulator_findings().decode(), self.path, self.sources)
        if broken := [rule for buffer in buffers for rule in buffer.broken_rules()]:
            raise EmulationError(f"{name}: " + "\n".join([*broken, *map(str, report.races)]))
        outputs = [buffer.tensor for buffer in buffers if isinstance(buffer.given, Output)]
        return (*outputs, report)

    def raise_failure(self, name: str, error: int = 0) -> None:
        """Raises what has gone wrong since the last call; for those who call functions themselves."""
        failure = self.functions.emulator_failure().decode()
        if failure:
            findings = read_report(self.functions.emulator_findings().decode(), self.path, self.sources).races
            lines = [read_failure(failure, self.path, self.sources), *map(str, findings)]
            raise EmulationError(f"{name}: " + "\n".join(lines))
        if error:
            raise EmulationError(f"{name}: returned CUDA error {error}.")

    def _pass(self, argument: object, buffers: list[Buffer]) -> list[object]:
        if not isinstance(argument, dict):
            return [argument]
        pointers: list[object] = []
        for name, given in argument.items():
            if given is None:
                pointers.append(None)
                continue
            buffer = Buffer(name, given)
            buffers.append(buffer)
            writable = isinstance(given, Output)
            self.functions.emulator_track(buffer.address, buffer.bytes, name.encode(), writable)
            pointers.append(ctypes.c_void_p(buffer.address))
        return pointers


def build(sources: Path = SOURCES, checked: bool = False, only: Sequence[str] = ()) -> Library:
    """The emulated kernels of a folder, compiled as far as they have changed.

    Args:
        sources: ``csrc``, or a changed copy of it, which is compiled beside itself.
        checked: Whether every access is checked and counted; some eight times slower.
        only: The stems of the ops to compile (``X`` for ``cuda/X.cu`` and ``api_X.cpp``). Default: all.
    """
    units = [*sorted((sources / "cuda").glob("*.cu")), *sorted(EMULATOR.glob("api_*.cpp"))]
    if only:
        units = [unit for unit in units if unit.stem.removeprefix("api_") in only]
    return build_units(units, sources, checked)


def build_units(units: Sequence[Path], sources: Path = SOURCES, checked: bool = False) -> Library:
    """A library of these files that launch kernels, and of the emulator."""
    home = BUILD if sources == SOURCES else sources.parent / "cuda-emulator"
    key = hashlib.sha256("\n".join(map(str, units)).encode()).hexdigest()[:8]
    folder = home / f"{'checked' if checked else 'plain'}-{key}"
    runtime = BUILD / f"runtime-{'checked' if checked else 'plain'}"
    folder.mkdir(parents=True, exist_ok=True)
    runtime.mkdir(parents=True, exist_ok=True)
    text = _ninja_file(units, sources, checked, folder, runtime)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        file = folder / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        command = [Path(ninja.BIN_DIR) / "ninja", "-C", folder, "--quiet"]
        finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{finished.stdout}{finished.stderr}")
    return Library(folder / "kernels.so", checked, sources)


def _ninja_file(units: Sequence[Path], sources: Path, checked: bool, folder: Path, runtime: Path) -> str:
    macros = "-DWEMOE_EMULATED" + (" -DWEMOE_CHECKED" if checked else "")
    # vectors are read whole, as nvcc reads them, and not number by number
    instrument = "-fsanitize=thread -fno-tree-sra" if checked else ""
    # Kernels see the same bytes as different types, and nvcc has no strict aliasing. Sums are rounded after each
    # product on every machine. A kernel's __shared__ variable is its library's own, not the process's: hence no unique
    # symbols.
    flags = f"-std=c++20 -O2 -g -fPIC -fno-gnu-unique -fno-strict-aliasing -ffp-contract=off {macros}"
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        f"includes = -I{sources} -I{SOURCES} -I{EMULATOR} -isystem {find_cuda_headers()}",
        "rule runtime",
        f"  command = $cxx {flags} -Wall -Wextra -Werror $includes -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule kernels",
        f"  command = $cxx -x c++ {flags} {instrument} -Wno-unknown-pragmas $includes "
        f"-include {EMULATOR / 'cuda_on_host.h'} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        "  command = $cxx -shared -Wl,-z,defs $in -o $out",
    ]
    objects = []
    for source in sorted(path for path in EMULATOR.glob("*.cpp") if not path.name.startswith("api_")):
        objects.append(runtime / f"{source.stem}.o")
        lines.append(f"build {objects[-1]}: runtime {source}")
    for unit in units:
        objects.append(folder / f"{unit.name}.o")
        lines.append(f"build {objects[-1]}: kernels {unit}")
    lines.append(f"build {folder / 'kernels.so'}: link {' '.join(map(str, objects))}")
    return "\n".join(lines) + "\n"


@functools.cache
def find_cuda_headers() -> Path:
    """The folder of cuda_bf16.h, from where setup.py looks for a toolkit, or from any environment's packages."""
    nvcc = shutil.which("nvcc")
    homes = [
        os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"),
        nvcc and Path(nvcc).resolve().parents[1],
        "/usr/local/cuda",
    ]
    folders = [Path(home) / "include" for home in homes if home]
    for prefix in (Path(sys.prefix), ROOT / ".venv-cuda", ROOT / ".venv"):
        folders += sorted(prefix.glob("lib/python*/site-packages/nvidia/cu[0-9]*/include"))
    for folder in folders:
        if all((folder / name).exists() for name in ("cuda_bf16.h", "cuda_runtime_api.h", "crt/host_defines.h")):
            return folder
    raise RuntimeError(
        "emulating CUDA kernels needs the headers of CUDA 12.8 or later (cuda_bf16.h, cuda_runtime_api.h). Found none "
        "in CUDA_HOME, beside nvcc, in /usr/local/cuda or in this environment: install a toolkit, or "
        "`pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl`."
    )
