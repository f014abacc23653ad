"""Reading safetensors files, the only format that weights are read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read every tensor of a file.

    Tensors are copied into memory of their own: where a file has them they are not aligned, and torch's sums over
    weights that are not aligned may differ in the last bit.

    Raises:
        ValueError: the file is no whole safetensors file.
    """
    with _opened(file) as tensors:
        return {name: tensors.get_tensor(name).clone() for name in tensors.keys()}  # noqa: SIM118 - it is no mapping


def read_metadata(file: Path) -> dict[str, str]:
    """Read what a file says about its tensors, without reading them.

    Raises:
        ValueError: the file is no whole safetensors file.
    """
    with _opened(file) as tensors:
        return tensors.metadata() or {}


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} must be a whole safetensors file; found: {error}") from error
