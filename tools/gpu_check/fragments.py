"""What lies where in the registers of a warp: asked of a GPU or of the emulator by tests/native/fragments.cu.

A place is a register of a lane, or half of one where numbers have 16 bits; places count through a lane's registers,
then through the lanes. The answers are plain lists, as they stand in tests/cuda/golden_fragments.json.
"""

import ctypes
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_check import layouts
from gpu_check.files import ROOT, write_text

SOURCE = ROOT / "tests" / "native" / "fragments.cu"
GOLDEN = ROOT / "tests" / "cuda" / "golden_fragments.json"

LANES, SUMS = 32, 4
SUMS_STEP = 1024  # as in the program
PLACES_OF_B = {"multiply_bfloat16": 4 * LANES, "multiply_float16": 4 * LANES, "multiply_tf32": 2 * LANES}
LOADS = ("load_matrices", "load_matrices_transposed")
TF32_BITS = ~0x1FFF  # sign, exponent and 10 bits: multiplication reads no others

# Ties and their neighbours on both sides, exact numbers, a carry into the exponent, zeros and infinities.
ROUNDED = (
    *(sign * (1 + k * 2**-11 + offset) for sign in (1, -1) for k in (0, 1, 2, 3) for offset in (-(2**-23), 0, 2**-23)),
    *(sign * number for sign in (1, -1) for number in (0.0, 2 - 2**-11, 2 - 2**-23, float("inf"))),
)


def compile_program(folder: Path, architectures: list[int]) -> Path:
    """The program as a library for these compute capabilities (80 for 8.0), by nvcc.

    Raises:
        RuntimeError: nvcc is missing or refuses; with what it said.
    """
    library = folder / "libfragments.so"
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    flags = ["-std=c++20", "-O2", "-shared", "-Xcompiler=-fPIC", f"-I{ROOT / 'csrc'}"]
    command = ["nvcc", *flags, *targets, str(SOURCE), "-o", str(library)]
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("the fragment program needs nvcc. Found none on PATH.") from None
    if finished.returncode:
        raise RuntimeError(f"nvcc refuses {SOURCE.relative_to(ROOT)}:\n{finished.stdout}{finished.stderr}")
    return library


class Caller:
    """Calls the program's functions by name, on tensors and whole numbers.

    Args:
        library: The program.
        wait: Waits for what was launched, and raises what went wrong.
    """

    def __init__(self, library: ctypes.CDLL, wait: Callable[[], object]) -> None:
        self.library, self.wait = library, wait

    def __call__(self, name: str, *arguments: Tensor | int) -> None:
        """Raises RuntimeError where a launch fails."""
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int(a) for a in arguments]
        error = getattr(self.library, name)(*values)
        if error:
            raise RuntimeError(f"{name}: the launch failed with CUDA error {error}.")
        self.wait()


def ask(call: Callable[..., None], device: torch.device | str) -> dict[str, Any]:
    """Runs the program and reads its answers.

    Args:
        call: Calls one of its functions, on a GPU or in the emulator.
        device: Where arrays lie: a GPU, or the CPU for the emulator.

    Raises:
        RuntimeError: A launch failed, or an answer is none that any layout of registers could give.
    """
    answers: dict[str, Any] = {}
    for name in LOADS:
        matrices = torch.arange(4 * 8 * 8, dtype=torch.int16).to(device)
        loaded = torch.full((LANES, 8), -1, dtype=torch.int16, device=device)
        call(f"fragments_{name}", matrices, loaded)
        answers[name] = loaded.tolist()
    for name, places in PLACES_OF_B.items():
        products = torch.full((places, LANES, SUMS), torch.nan, device=device)
        call(f"fragments_{name}", products)
        answers[name] = read_products(name, products.cpu().flatten(1))
    numbers = torch.tensor(ROUNDED, dtype=torch.float32).to(device)
    rounded = torch.zeros(len(ROUNDED), dtype=torch.int32, device=device)
    call("fragments_round_to_tf32", len(ROUNDED), numbers, rounded)
    answers["round_to_tf32"] = (rounded.cpu() & TF32_BITS).tolist()
    return answers


def read_products(name: str, products: Tensor) -> list[list[list[int]]]:
    """For each place of the sums, the places of A and of B whose products it adds.

    Args:
        name: The instruction, for errors.
        products: Sums by the place of B that held a one, [places of B, places of the sums].

    Raises:
        RuntimeError: A sum is not its own start and one number of A.
    """
    starts = SUMS_STEP * torch.arange(1, products.shape[1] + 1)
    added = products - starts  # a number of A, which is its place counted from 1, or zero
    places_of_a = 4 * LANES if name == "multiply_tf32" else 8 * LANES
    possible = (added >= 0) & (added <= places_of_a) & (added == added.round())
    if not possible.all():
        b, place = (~possible).nonzero()[0].tolist()
        raise RuntimeError(
            f"{name}: the sum of lane {place // SUMS}, register {place % SUMS} must be {starts[place]} and a number "
            f"of A, 1 to {places_of_a}, or nothing. Found {products[b, place].item()} with a one at place {b} of B."
        )
    pairs: list[list[list[int]]] = [[] for _ in range(products.shape[1])]
    for b, place in added.nonzero().tolist():
        pairs[place].append([int(added[b, place]) - 1, b])
    return pairs


def documented() -> dict[str, Any]:
    """The answers that csrc/cuda/ptx.cuh promises."""
    return layouts.documented(ROUNDED)


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where two sets of answers differ, a line for each instruction and place."""
    lines = []
    for name in (*LOADS, *PLACES_OF_B, "round_to_tf32"):
        if len(found[name]) != len(expected[name]):
            lines.append(f"{name}: {len(found[name])} answers, expected {len(expected[name])}")
            continue
        for place, (one, other) in enumerate(zip(found[name], expected[name], strict=True)):
            if one != other:
                lines.append(f"{name}, {_where(name, place)}: {one}, expected {other}")
    return lines


def _where(name: str, place: int) -> str:
    if name in LOADS:
        return f"lane {place}"
    if name == "round_to_tf32":
        return f"{ROUNDED[place]!r}"
    return f"lane {place // SUMS}, sum {place % SUMS}"


def write_golden(path: Path, gpu: dict[str, Any], answers: dict[str, Any]) -> None:
    """Keeps a GPU's answers: a line for each lane, sum or number."""
    parts = [f'  "gpu": {json.dumps(gpu)}']
    for name, answer in answers.items():
        lines = ",\n".join(f"    {json.dumps(line)}" for line in answer)
        parts.append(f'  "{name}": [\n{lines}\n  ]')
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def read_golden(path: Path) -> dict[str, Any]:
    """What `write_golden` wrote."""
    golden: dict[str, Any] = json.loads(path.read_text())
    return golden
