"""Frozen weights that live packed: what dense and sparse routed linear maps share.

On a CPU weights are read fastest in lines of 16 outputs (`wemoe_ext.packing`). A parameter keeps its name and changes
its shape, in place, when a layer is made or loaded; state dicts and saved files hold it in its plain shape. Weights
that are sharded over processes (FSDP2) keep the layout that they were sharded in.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


class PackedLinear(nn.Module):
    """A linear map D -> F with the task vectors of T experts, some of whose weights live packed.

    Attributes:
        packed_names: the parameters that packing rearranges.

    Args:
        in_features: D.
        out_features: F.
        num_tasks: T.
    """

    packed_names: ClassVar[tuple[str, ...]]
    weight: nn.Parameter
    bias: nn.Parameter | None
    task_biases: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, num_tasks: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.num_tasks = num_tasks

    def to_packed(self, *plain: Tensor) -> tuple[Tensor, ...]:
        """Rearrange the tensors of `packed_names` from their plain shapes."""
        raise NotImplementedError

    def to_plain(self, *packed: Tensor) -> tuple[Tensor, ...]:
        """Rearrange the tensors of `packed_names` to their plain shapes."""
        raise NotImplementedError

    def pack(self) -> None:
        """Give the frozen weights the layout in which they are read fastest, in place; sharded ones stay as they are.

        Layers that are made, loaded or moved do it themselves.
        """
        raise NotImplementedError

    def task_parameters(self) -> list[nn.Parameter]:
        """What the experts add: the parameters that hold task vectors of weight and bias."""
        raise NotImplementedError

    @property
    def filling_bytes(self) -> int:
        """By how much the layer grows when it is packed."""
        return 0

    @property
    def packing_bytes(self) -> int:
        """What packing takes in memory beside the layer."""
        raise NotImplementedError

    @property
    def building_bytes(self) -> int:
        """What taking the experts' task vectors takes in memory beside the layer."""
        raise NotImplementedError

    @property
    def is_packed(self) -> bool:
        """Whether the frozen weights are packed."""
        return self.weight.dim() == 3

    def unpack(self) -> None:
        """Give the frozen weights their plain shapes, in place; sharded ones stay as they are."""
        if self.is_packed and not isinstance(self.weight, DTensor):
            self._replace(self.to_plain(*self._held()))

    def _held(self) -> list[Tensor]:
        return [self.get_parameter(name).detach() for name in self.packed_names]

    def _replace(self, tensors: tuple[Tensor, ...]) -> None:
        for name, tensor in zip(self.packed_names, tensors, strict=True):
            self.get_parameter(name).data = tensor

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_packed:
            plain = _like_shards(self.weight, self.to_plain(*map(_whole, self._held())))
            destination.update({f"{prefix}{name}": each for name, each in zip(self.packed_names, plain, strict=True)})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = [f"{prefix}{name}" for name in self.packed_names]
        if isinstance(self.weight, DTensor) and self.is_packed and state_dict.keys() >= set(names):
            packed = self.to_packed(*(_whole(state_dict[name]) for name in names))
            state_dict = state_dict | dict(zip(names, _like_shards(self.weight, packed), strict=True))
        self.unpack()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.pack()


def frozen(*shape: int, dtype: torch.dtype | None, device: torch.device | None) -> nn.Parameter:
    """Make a frozen parameter whose numbers are still to come."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def _whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; every process has to take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like_shards(model: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Shard whole tensors by their first dimension where a tensor of another layout is sharded."""
    if not isinstance(model, DTensor):
        return tensors
    mesh = model.device_mesh
    # shards of one layout hold other numbers than those of the other, and views of uneven shards do not exist
    placements = [Shard(0) if placement.is_shard() else placement for placement in model.placements]
    # every process holds the whole: each takes its own part and nothing is sent
    return tuple(distribute_tensor(tensor, mesh, placements, src_data_rank=None) for tensor in tensors)
