"""Which lane and register holds which element, as the PTX ISA says it ("Matrix Fragments for mma.m16n8k16" and so on).

Elements a0, a1, ... count through a lane's registers, two to a register where numbers have 16 bits, the low half first.
The formulas are the ISA's own, so that a reader can hold one against the other.
"""

import torch
from torch import Tensor

LANES = 32


def places_of_a_16(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ``i`` (0 to 7) of A, 16 by 16, of 16-bit numbers."""
    row = lane >> 2 if i in (0, 1, 4, 5) else (lane >> 2) + 8
    column = lane % 4 * 2 + (i & 1) if i < 4 else lane % 4 * 2 + (i & 1) + 8
    return row, column


def places_of_b_16(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ``i`` (0 to 3) of B, 16 by 8, of 16-bit numbers."""
    row = lane % 4 * 2 + (i & 1) if i < 2 else lane % 4 * 2 + (i & 1) + 8
    return row, lane >> 2


def places_of_a_tf32(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ``i`` (0 to 3) of A, 16 by 8, in TF32."""
    row = lane >> 2 if i in (0, 2) else (lane >> 2) + 8
    column = lane % 4 if i in (0, 1) else lane % 4 + 4
    return row, column


def places_of_b_tf32(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ``i`` (0 and 1) of B, 8 by 8, in TF32."""
    return (lane % 4 if i == 0 else lane % 4 + 4), lane >> 2


def places_of_sums(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element ``i`` (0 to 3) of the sums, 16 by 8."""
    return (lane >> 2 if i < 2 else (lane >> 2) + 8), lane % 4 * 2 + (i & 1)


def to_registers(matrix: Tensor, places, count: int) -> Tensor:
    """A matrix as the lanes hold it, [32 lanes, count elements]."""
    held = [[matrix[places(lane, i)] for i in range(count)] for lane in range(LANES)]
    return torch.stack([torch.stack(row) for row in held])


def from_registers(registers: Tensor, places, shape: tuple[int, int]) -> Tensor:
    """The matrix that the lanes hold between them."""
    matrix = torch.full(shape, torch.nan)
    for lane in range(LANES):
        for i in range(registers.shape[1]):
            matrix[places(lane, i)] = registers[lane, i]
    return matrix


def loaded_by_ldmatrix(matrices: Tensor, transposed: bool) -> Tensor:
    """What ldmatrix.x4 gives each lane, [32 lanes, 4 registers, 2 halves], of four 8 by 8 matrices."""
    loaded = torch.empty(LANES, 4, 2, dtype=matrices.dtype)
    for lane in range(LANES):
        for register in range(4):
            for half in range(2):
                row, column = lane // 4, lane % 4 * 2 + half
                loaded[lane, register, half] = (
                    matrices[register, column, row] if transposed else matrices[register, row, column]
                )
    return loaded
