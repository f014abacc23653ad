"""The answers that the layouts named in csrc/cuda/ptx.cuh give, computed from those words alone."""

import struct
from typing import Any

LANES, SUMS = 32, 4


def documented(numbers: tuple[float, ...]) -> dict[str, Any]:
    """Answers of the fragment program, as `gpu_check.fragments.ask` gives them.

    Args:
        numbers: What is rounded to TF32.
    """
    halves = products(_half_of_a, _half_of_b, depth=16)
    return {
        "load_matrices": [_loaded(lane, transposed=False) for lane in range(LANES)],
        "load_matrices_transposed": [_loaded(lane, transposed=True) for lane in range(LANES)],
        "multiply_bfloat16": halves,
        "multiply_float16": halves,
        "multiply_tf32": products(_tf32_of_a, _tf32_of_b, depth=8),
        "round_to_tf32": [round_to_tf32(number) for number in numbers],
    }


def products(place_of_a: Any, place_of_b: Any, depth: int) -> list[list[list[int]]]:
    """For each place of the sums, the places of A and of B that are multiplied, in the order of those of B."""
    pairs = []
    for lane in range(LANES):
        g, t = divmod(lane, 4)
        for i in range(SUMS):
            row, column = g + 8 * (i // 2), 2 * t + i % 2
            terms = [[place_of_a(row, k), place_of_b(k, column)] for k in range(depth)]
            pairs.append(sorted(terms, key=lambda term: term[1]))
    return pairs


def round_to_tf32(number: float) -> int:
    """The nearest number with 10 bits after the point, ties away from zero, as the bits of a signed integer."""
    bits: int = struct.unpack("<I", struct.pack("<f", number))[0]
    rounded = (bits + 0x1000) & 0xFFFFE000
    return rounded - 2**32 if rounded >= 2**31 else rounded


def _half_of_a(row: int, k: int) -> int:
    """Lane 4 (row % 8) + (k % 8) / 2; register by the halves of rows and of columns; low half first."""
    lane, register = 4 * (row % 8) + k % 8 // 2, row // 8 + 2 * (k // 8)
    return 8 * lane + 2 * register + k % 2


def _half_of_b(k: int, column: int) -> int:
    lane, register = 4 * column + k % 8 // 2, k // 8
    return 4 * lane + 2 * register + k % 2


def _tf32_of_a(row: int, k: int) -> int:
    lane, register = 4 * (row % 8) + k % 4, row // 8 + 2 * (k // 4)
    return 4 * lane + register


def _tf32_of_b(k: int, column: int) -> int:
    lane, register = 4 * column + k % 4, k // 4
    return 2 * lane + register


def _loaded(lane: int, transposed: bool) -> list[int]:
    """What a lane receives of four matrices whose numbers count from 0: two of each matrix."""
    g, t = divmod(lane, 4)
    places = [(2 * t, g), (2 * t + 1, g)] if transposed else [(g, 2 * t), (g, 2 * t + 1)]
    return [64 * matrix + 8 * row + column for matrix in range(4) for row, column in places]
