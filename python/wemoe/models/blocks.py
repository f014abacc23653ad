"""Finding the transformer blocks of a model: by family, by a user's description, or by structure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from wemoe.mlp_search import find_mlp_slots
from wemoe.mlps import MLPSlots, within
from wemoe.models.families import FAMILIES, Family, describe


def find_blocks(model: nn.Module, families: tuple[Family, ...] = ()) -> dict[str, Family]:
    """Find the transformer blocks whose MLPs can be routed.

    Args:
        model: any module. Blocks of known families are looked for by their class names; where there are none, MLPs
            are looked for by structure in the elements of the model's lists of layers.
        families: descriptions to look for instead.

    Returns:
        By the block's path in the model, in the order of the model's modules: its family, with the paths of this
        very block.

    Raises:
        ValueError: nothing can be routed. The message names what was looked at, and why it does not fit.
    """
    described = {path: describe(module, families or FAMILIES) for path, module in model.named_modules()}
    blocks = {path: found for path, found in described.items() if found is not None}
    if blocks:
        return blocks
    if not families:
        return _find_by_structure(model)
    wanted = "; ".join(f"{family.name!r}, classes {list(family.blocks)} with {family.mlp}" for family in families)
    raise ValueError(f"family must describe blocks of {type(model).__name__}; found none that is {wanted}")


def unknown_families(blocks: Mapping[str, Family]) -> tuple[Family, ...]:
    """Return the descriptions that are not the library's own, each once."""
    known = {family.name for family in FAMILIES}
    return tuple(dict.fromkeys(family for family in blocks.values() if family.name not in known))


def _find_by_structure(model: nn.Module) -> dict[str, Family]:
    """Find MLPs that are modules of their own, inside the elements of lists of layers."""
    blocks: dict[str, Family] = {}
    reasons: list[str] = []
    proven: dict[str, MLPSlots | str] = {}  # by signature: the slots, or why there are none
    for path, module in _candidates(model):
        signature = f"{type(module).__qualname__} {module}"
        if signature not in proven:
            proven[signature] = _slots_or_reason(module)
        slots = proven[signature]
        if isinstance(slots, str):
            reasons.append(f"{path!r}: {slots}")
            continue
        block_path = _block_of(model, path)
        if block_path in blocks:
            raise ValueError(
                f"base_model must have one MLP in each block; block {block_path!r} has "
                f"{blocks[block_path].mlp.replaced!r} and {path.removeprefix(f'{block_path}.')!r}. "
                "Describe the one to route with family=wemoe.Family(...)."
            )
        kind = type(model.get_submodule(block_path)).__name__
        mlp = within(slots, module, path.removeprefix(f"{block_path}."))
        blocks[block_path] = Family(name=f"{kind}, by structure", blocks=(kind,), mlp=mlp)
    if blocks:
        return blocks
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"base_model must hold blocks of a known family ({known}), or blocks in a list of layers with an MLP that is a "
        f"module of its own; found none in {type(model).__name__}"
        + "".join(f"; {reason}" for reason in reasons[:3])
        + ". A description of your own goes in as family=wemoe.Family(...); for a single MLP there is "
        "wemoe.WeightEnsemblingMoE."
    )


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules inside list elements that hold two or three linear maps, and hold no smaller module of that kind.

    An element itself is none: experts of a mixture, say, receive other tokens at every call.
    """
    found = {
        path: module
        for path, module in model.named_modules()
        if (elements := _list_elements(model, path)) and elements[0] != path and 2 <= _linear_maps(module) <= 3
    }
    for path, module in found.items():
        if not any(other.startswith(f"{path}.") for other in found):
            yield path, module


def _linear_maps(module: nn.Module) -> int:
    return sum(isinstance(child, nn.Linear | Conv1D) for child in module.modules())


def _slots_or_reason(module: nn.Module) -> MLPSlots | str:
    try:
        return find_mlp_slots(module)
    except ValueError as error:
        return str(error)


def _list_elements(model: nn.Module, path: str) -> list[str]:
    """Paths of the elements of lists of layers that a module is or stands in, the nearest first."""
    names = path.split(".") if path else []
    ancestors = [".".join(names[:depth]) for depth in range(len(names), 0, -1)]
    return [
        ancestor
        for ancestor in ancestors
        if isinstance(model.get_submodule(ancestor.rpartition(".")[0]), nn.ModuleList)
    ]


def _block_of(model: nn.Module, path: str) -> str:
    """The nearest element that takes an attention mask, else the nearest element."""
    elements = _list_elements(model, path)
    return next((element for element in elements if takes_attention_mask(model.get_submodule(element))), elements[0])


def takes_attention_mask(block: nn.Module) -> bool:
    """Whether a block's forward has an argument of that name."""
    return "attention_mask" in inspect.signature(block.forward).parameters


def is_batch_first(block: nn.Module) -> bool:
    """Whether a block's hidden states are [B, N, D]: torch's own attention tells where they may be [N, B, D]."""
    attentions = (module for module in block.modules() if isinstance(module, nn.MultiheadAttention))
    return all(attention.batch_first for attention in attentions)
