"""Provenance: which base and which experts a routed model was made of, by name and by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wemoe.config import Provenance, Source

if TYPE_CHECKING:
    from wemoe.weights import Weights

PIECE = 2**22  # elements that are hashed at a time


def provenance_of(base: Weights, experts: Mapping[str, Weights]) -> Provenance:
    """Name and hash a base and its experts; several are hashed at a time, a few rows of a tensor of each.

    The hash of a checkpoint is that of the state dict of the model that is loaded from it. An expert that was
    fine-tuned from a copy of the base and never saved still bears the base's name: it has none.
    """
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        made_of, *tuned = pool.map(_source, (base, *experts.values()))
    own = [source.model_copy(update={"name": None}) if source.name == made_of.name else source for source in tuned]
    return Provenance(base=made_of, experts=dict(zip(experts, own, strict=True)))


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Hash a state dict: for each tensor, in the order of their names, its name, dtype, shape and bytes.

    No more than one tensor is copied at a time, and only one that is on another device or not contiguous.
    """
    return _sha256((name, state[name], [state[name]]) for name in sorted(state))


def public_name(name_or_path: str | None) -> str | None:
    """Return a model's name as others may know it: of a local folder, only the last part."""
    if not name_or_path:
        return None
    path = Path(name_or_path).expanduser()
    is_local = path.exists() or path.is_absolute() or "\\" in name_or_path or name_or_path.startswith((".", "~"))
    if is_local or name_or_path.count("/") > 1:
        return PureWindowsPath(PurePosixPath(name_or_path).name).name or None
    return name_or_path


def _source(weights: Weights) -> Source:
    names = {name: name for name in weights.contents if name not in weights.unknown} | dict(weights.aliases)
    tensors = ((name, weights.contents[own], _pieces(weights, own)) for name, own in sorted(names.items()))
    return Source(name=weights.name, sha256=_sha256(tensors))


def _pieces(weights: Weights, name: str) -> Iterator[Tensor]:
    return (weights.read(name, rows) for rows in weights.rows(name, PIECE))


def _sha256(tensors: Iterable[tuple[str, Tensor, Iterable[Tensor]]]) -> str:
    """Hash tensors by name, of each its pieces, in the order that they come in."""
    digest = hashlib.sha256()
    for name, tensor, pieces in tensors:
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        for piece in pieces:
            digest.update(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
