"""The classes of routed models: subclasses of the base's own, generated once for each base class.

A routed model is an instance of its base's class, so that whatever accepts the base (generation, trainers, pipelines)
accepts it. The generated classes carry the name of the class they extend, which other libraries look up.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.config import RoutingConfig
from wemoe.heads import Heads
from wemoe.saving import save
from wemoe.token_masks import TokenMask, from_attention_mask


class Specialised(nn.Module):
    """A generated subclass: copied and pickled by the class it extends, since its own cannot be imported."""

    base_class: ClassVar[type[nn.Module]]
    mixin: ClassVar[type[Specialised]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Rebuild from the extended class and the mixin."""
        return _allocate, (self.base_class, self.mixin), self.__dict__.copy()


class RoutedBlock(Specialised):
    """A transformer block that hands the token mask read off its attention mask to its routed MLP."""

    mask_index: ClassVar[int]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block as the class it extends does, padding left out of the routing."""
        index = self.mask_index
        attention_mask = args[index] if len(args) > index else kwargs.get("attention_mask")
        with TokenMask(from_attention_mask(attention_mask)):
            return super().forward(*args, **kwargs)


class RoutedModel(Specialised, PreTrainedModel):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """A routed model: an instance of the base's class whose MLPs are assembled for every sample.

    Attributes:
        routing_config: how the model was upcycled.
    """

    routing_config: RoutingConfig

    def save_pretrained(  # type: ignore[override]  # the base's other options belong to other formats
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        heads: Heads | None = None,
    ) -> None:
        """Save the whole model, so that `wemoe.from_pretrained` needs neither the base nor the experts.

        Args:
            save_directory: folder of the checkpoint; made if missing.
            is_main_process: whether this process writes; the others of a distributed run return at once.
            state_dict: the weights to save, where a distributed run has gathered them; else the model's own.
            max_shard_size: largest size of one weight file, in bytes or like `"5GB"`.
            heads: by task, its frozen linear head, to be kept beside the model (`wemoe.load_heads`).

        Raises:
            TypeError, ValueError: `heads` are no linear layers keyed by the model's tasks.
            OSError: the folder cannot be written; checked before any work.
        """
        if is_main_process:
            save(self, save_directory, state_dict=state_dict, max_shard_size=max_shard_size, heads=heads)


_generated: dict[tuple[type[nn.Module], type[Specialised]], type[Specialised]] = {}


def specialise(base_class: type[nn.Module], mixin: type[Specialised]) -> type[Specialised]:
    """Return the subclass of `base_class` that is also a `mixin`; the same one for the same arguments."""
    key = (base_class, mixin)
    if key not in _generated:
        _generated[key] = _generate(base_class, mixin)
    return _generated[key]


def _generate(base_class: type[nn.Module], mixin: type[Specialised]) -> type[Specialised]:
    body: dict[str, Any] = {
        "__module__": base_class.__module__,
        "__qualname__": base_class.__qualname__,
        "__doc__": base_class.__doc__,
        "base_class": base_class,
        "mixin": mixin,
    }
    if mixin is RoutedBlock:
        parameters = list(inspect.signature(base_class.forward).parameters)
        body["mask_index"] = parameters.index("attention_mask") - 1  # self is not among the arguments
    return type(base_class.__name__, (mixin, base_class), body)


def _allocate(base_class: type[nn.Module], mixin: type[Specialised]) -> Specialised:
    generated = specialise(base_class, mixin)
    return generated.__new__(generated)
