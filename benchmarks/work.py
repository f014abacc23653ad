"""What a computation has to do at least: operations, and bytes read and written once per pass over its operands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes; from them and a time come GFLOP/s and GB/s."""

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, passes: float) -> Work:
        """Of several passes like this one: forward, gradient of the input, gradient of the routing weights."""
        return Work(self.operations * passes, self.bytes * passes)


def linear(R: int, M: int, D: int, F: int, T: int = 0, itemsize: int = 4) -> Work:
    """A linear map of R * M rows whose weights are assembled from T task vectors for each route; plain without any."""
    return Work(2 * R * (M + T) * D * F, itemsize * ((T + 1) * D * F + R * M * (D + F)))


def mlp(R: int, M: int, D: int, F: int, T: int = 0, itemsize: int = 4) -> Work:
    return linear(R, M, D, F, T, itemsize) + linear(R, M, F, D, T, itemsize)


def router(B: int, N: int, D: int) -> Work:
    """A router of depth 2, without its small second map."""
    return linear(1, B * N, D, D)


def attention(B: int, N: int, D: int) -> Work:
    """Four linear maps, and two products of all tokens with all."""
    return linear(1, B * N, D, D) * 4 + Work(4 * B * N * N * D, 0)


def merging(size: int, T: int, itemsize: int = 4) -> Work:
    """Merging `size` numbers of T task vectors, or multiplying their gradient by each of the task vectors."""
    return Work(2 * T * size, itemsize * (T + 1) * size)
