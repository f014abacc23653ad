"""Reading safetensors files, the only format that weights are read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CHUNK = 2**16  # elements that are read at a time where they are converted or moved

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


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


class _Place(NamedTuple):
    file: Path
    position: int  # of the first byte


class StoredTensors:
    """The tensors of several files, read one at a time; at the end of a block the file that is open is closed.

    Files are read, not mapped: a mapped file stays in the process's memory as far as it was read.

    Attributes:
        contents: by name, a tensor on the meta device, of the shape and the dtype of the stored one.

    Args:
        files: safetensors files; no name may be in two of them.

    Raises:
        ValueError: a file is no whole safetensors file, a tensor is of an unknown dtype, or a name is in two files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.contents: dict[str, Tensor] = {}
        self._places: dict[str, _Place] = {}
        self._open: BinaryIO | None = None
        for file in files:
            found = _hollow_tensors(file)
            # the format: a header, then the tensors without a gap
            position = file.stat().st_size - sum(tensor.nbytes for tensor in found.values())
            for name, tensor in found.items():
                if name in self.contents:
                    raise ValueError(f"{name!r} must be in one file; found in {self._places[name].file} and in {file}")
                self.contents[name], self._places[name] = tensor, _Place(file, position)
                position += tensor.nbytes

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Read one tensor into memory of its own; where it is converted or moved, a piece at a time."""
        hollow, place = self.contents[name], self._places[name]
        source = self._file(place.file)
        source.seek(place.position)
        if dtype == hollow.dtype and device.type == "cpu":
            return _filled(torch.empty(hollow.shape, dtype=dtype), source)
        tensor = torch.empty(hollow.shape, dtype=dtype, device=device)
        for piece in torch.split(tensor.view(-1), CHUNK):
            piece.copy_(_filled(torch.empty(piece.shape, dtype=hollow.dtype), source))
        return tensor

    def read_rows(self, name: str, rows: slice) -> Tensor:
        """Read rows of one tensor, from a first one up to another, into memory of their own."""
        hollow, place = self.contents[name], self._places[name]
        first, last, _ = rows.indices(len(hollow))
        source = self._file(place.file)
        source.seek(place.position + first * hollow[:1].nbytes)
        return _filled(torch.empty((last - first, *hollow.shape[1:]), dtype=hollow.dtype), source)

    def _file(self, file: Path) -> BinaryIO:
        if self._open is None or self._open.name != str(file):
            self.close()
            self._open = file.open("rb")
        return self._open

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hollow_tensors(file: Path) -> dict[str, Tensor]:
    """Make tensors like those of a file on the meta device, in the order in which the file holds them."""
    found: dict[str, Tensor] = {}
    with _opened(file) as tensors:
        for name in tensors.offset_keys():
            stored = tensors.get_slice(name)
            if stored.get_dtype() not in DTYPES:
                raise ValueError(
                    f"{str(file)!r} must hold dtypes among {list(DTYPES)}; found {stored.get_dtype()!r} in {name!r}"
                )
            found[name] = torch.empty(stored.get_shape(), dtype=DTYPES[stored.get_dtype()], device="meta")
    return found


def _filled(tensor: Tensor, source: BinaryIO) -> Tensor:
    """Fill a contiguous tensor on the CPU with the next bytes of a file."""
    expected = tensor.nbytes
    found = source.readinto(tensor.view(-1).view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
    if found != expected:
        raise ValueError(f"{source.name!r} must be a whole safetensors file; found {found} of {expected} bytes")
    return tensor


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt", backend="pread") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} must be a whole safetensors file; found: {error}") from error
