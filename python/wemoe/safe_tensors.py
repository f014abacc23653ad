"""Reading safetensors files, the only format that weights are read from."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read every tensor of a file.

    Raises:
        ValueError: the file is no whole safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} must be a whole safetensors file; found: {error}") from error
