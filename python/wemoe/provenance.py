"""Provenance: which base and which experts a routed model was made of, by name and by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from wemoe.config import Provenance, Source

if TYPE_CHECKING:
    from wemoe.weights import Weights

Model = TypeVar("Model")


def provenance_of(base_model: nn.Module, experts: Mapping[str, nn.Module]) -> Provenance:
    """Name and hash a base and its experts; several are hashed at a time.

    An expert that was fine-tuned from a copy of the base and never saved still bears the base's name: it has none.
    """
    return _provenance(_source, base_model, experts)


def provenance_of_weights(base: Weights, experts: Mapping[str, Weights]) -> Provenance:
    """Name and hash weights as they are read; the hash is that of the state dict of the model that has them."""
    return _provenance(_source_of_weights, base, experts)


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Hash a state dict: for each tensor, in the order of their names, its name, dtype, shape and bytes.

    No more than one tensor is copied at a time, and only one that is on another device or not contiguous.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def public_name(name_or_path: str | None) -> str | None:
    """Return a model's name as others may know it: of a local folder, only the last part."""
    if not name_or_path:
        return None
    path = Path(name_or_path).expanduser()
    is_local = path.exists() or path.is_absolute() or "\\" in name_or_path or name_or_path.startswith((".", "~"))
    if is_local or name_or_path.count("/") > 1:
        return PureWindowsPath(PurePosixPath(name_or_path).name).name or None
    return name_or_path


def _provenance(describe: Callable[[Model], Source], base_model: Model, experts: Mapping[str, Model]) -> Provenance:
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        base, *tuned = pool.map(describe, (base_model, *experts.values()))
    own = [source.model_copy(update={"name": None}) if source.name == base.name else source for source in tuned]
    return Provenance(base=base, experts=dict(zip(experts, own, strict=True)))


def _source_of_weights(weights: Weights) -> Source:
    return Source(name=weights.name, sha256=sha256_of_state(_ReadState(weights)))


class _ReadState(Mapping[str, Tensor]):
    """A state dict whose tensors are read when they are asked for, under all their names."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights.read(self._weights.aliases.get(name, name))

    def __iter__(self) -> Iterator[str]:
        yield from self._weights.contents.keys() - self._weights.unknown
        yield from self._weights.aliases

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _source(model: nn.Module) -> Source:
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return Source(name=public_name(name), sha256=sha256_of_state(model.state_dict()))
