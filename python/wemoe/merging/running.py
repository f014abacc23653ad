"""Models that run, for methods that read data: the base, and its experts one at a time, wherever their weights are."""

from __future__ import annotations

import os
from typing import cast

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from typing_extensions import TypeVar

from wemoe.merging.rules import Sources, merged_part
from wemoe.mlps import LinearMap, MLPParts, MLPSlots, parts_at
from wemoe.repositories import GENERATION_FILE
from wemoe.skeletons import skeleton_of
from wemoe.stored_weights import skeleton_in
from wemoe.tensor_slots import Slot, find_slots

Model = TypeVar("Model", bound=nn.Module, default=PreTrainedModel)  # the default: of a base in files


def base_module(base_model: Model | str | os.PathLike[str], sources: Sources) -> Model:
    """Return the base as a module, of its backbone where only that is merged.

    Args:
        base_model: a module, which is returned as it is, or where a checkpoint is, which is made a model of the class
            in its configuration, in evaluation mode, with the tensors that are in its files.
        sources: opened from this base.

    Raises:
        TypeError: it is neither.
        ValueError: base and experts do not fit, its configuration names no class of transformers, or a tensor is
            missing or not finite.
    """
    sources.check()
    if isinstance(base_model, nn.Module):
        for name in sources.names:
            sources.base_tensor(name)  # it says which one is not finite
        return cast("Model", merged_part(base_model, sources))
    folder = sources.base.folder
    if folder is None:
        raise TypeError("base_model must be a module or a checkpoint's folder, for its class; found tensors only")
    skeleton = skeleton_in(folder)
    if skeleton is None:
        raise ValueError(
            f"base_model must name a class of transformers in its config.json; found none in {str(folder)!r}"
        )
    model = cast("PreTrainedModel", merged_part(skeleton, sources).eval())
    for slot in find_slots(model):
        if slot.persistent:
            slot.fill(_of_base(slot, sources))
    model.config._name_or_path = str(base_model)
    if model.can_generate() and (folder / GENERATION_FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return cast("Model", model)


def expert_module(base: Model, sources: Sources, task: str) -> Model:
    """Return a model like the base with the tensors of an expert, in evaluation mode.

    What does not have to be moved or converted is not copied, so that its parameters must not be changed in place.

    Args:
        base: as `base_module` returns it; gives class, dtypes, devices, and what is not merged of it.
        sources: opened from this base.
        task: whose expert.

    Raises:
        ValueError: a tensor holds NaN or infinity.
    """
    model = expert_part(base, sources, task, "")
    for own, slot in zip(find_slots(base), find_slots(model), strict=True):
        slot.fill(slot.tensor.detach().to(own.tensor))
    return cast("Model", model)


def expert_part(base: nn.Module, sources: Sources, task: str, path: str) -> nn.Module:
    """Return one module of an expert, at a path in the base, as `expert_module` does but in the expert's own dtypes.

    Raises:
        AttributeError: the base has no module at that path.
        ValueError: a tensor holds NaN or infinity.
    """
    part = base.get_submodule(path)
    copied = skeleton_of(part).eval()
    prefix = f"{path}." if path else ""
    for own, slot in zip(find_slots(part), find_slots(copied), strict=True):
        name = _name_of(slot, prefix, sources, task)
        tensor = own.tensor.detach() if name is None else sources.expert_tensor(task, name)
        if isinstance(own.tensor, nn.Parameter):
            slot.fill(tensor)
        elif name is not None:
            slot.fill(tensor.clone())
    return copied


def expert_mlp(base: nn.Module, sources: Sources, task: str, path: str, slots: MLPSlots) -> MLPParts:
    """Return the linear maps of the MLP in one block of an expert, at a path in the base; the activation is the base's.

    Raises:
        ValueError: a tensor holds NaN or infinity.
    """

    def linear(slot: str) -> LinearMap:
        return cast("LinearMap", expert_part(base, sources, task, f"{path}.{slot}" if path else slot))

    own = parts_at(base.get_submodule(path), slots)
    return MLPParts(
        linear(slots.up), own.activation, linear(slots.down), None if slots.gate is None else linear(slots.gate)
    )


def _name_of(slot: Slot, prefix: str, sources: Sources, task: str) -> str | None:
    """Return the name under which an expert's tensor is merged; None where the expert has no such tensor."""
    aliases, known = sources.matching.aliases, sources.matching.experts[task]
    names = (aliases.get(f"{prefix}{name}", f"{prefix}{name}") for name in slot.names)
    return next((name for name in names if name in known), None)


def _of_base(slot: Slot, sources: Sources) -> Tensor:
    name = next((name for name in slot.names if name in sources.matching.base), None)
    if name is None:
        raise ValueError(f"base_model must hold every tensor of its model; missing: {slot.names[0]!r}")
    return sources.base_tensor(name)
