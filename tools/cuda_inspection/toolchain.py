"""Finding and running nvcc and nvdisasm."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cuda_inspection.kernels import Kernel, read_kernels

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent

# torch compiles with these: half precision is converted where the source says so, and nowhere else.
NO_IMPLICIT_HALVES = tuple(
    f"-D__CUDA_NO_{what}__"
    for what in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
)
FLAGS = ("-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-Werror=all-warnings", *NO_IMPLICIT_HALVES)


def candidates(name: str) -> Iterator[Path]:
    """Where a tool may be: the environment's choice, PATH, the usual place, packages of this Python."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        yield Path(home) / "bin" / name
    if found := shutil.which(name):
        yield Path(found)
    yield Path("/usr/local/cuda/bin") / name
    for folder in map(Path, sys.path):
        yield from sorted(folder.glob(f"nvidia/cu[0-9]*/bin/{name}"))
        yield folder / "triton" / "backends" / "nvidia" / "bin" / name


def find_tool(name: str) -> Path:
    """The first of the candidates that is there."""
    for path in candidates(name):
        if os.access(path, os.X_OK):
            return path
    raise SystemExit(
        f"error: {name} is needed. Found none in CUDA_HOME, on PATH, in /usr/local/cuda or in {sys.prefix}."
    )


def run(*command: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command; ends with what it said if it fails."""
    done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done


def inspect(source: Path, architecture: int, folder: Path) -> list[Kernel]:
    """Compiles a file for an architecture (80 for sm_80) and reads what came out."""
    cubin = folder / f"{source.stem}.sm_{architecture}.cubin"
    compiled = run(find_tool("nvcc"), *FLAGS, f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin", "-o", cubin, source)
    return read_kernels(compiled.stdout + compiled.stderr, run(find_tool("nvdisasm"), "-c", cubin).stdout)


def build_host_program(name: str, folder: Path) -> Path:
    """Compiles `name` of this folder for the host."""
    program = folder / Path(name).stem
    run(find_tool("nvcc"), *FLAGS, "-arch=sm_80", "-o", program, HERE / name)
    return program
