"""Which modules of a model are routed by a preference, and what shares a router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from wemoe.models import Family
from wemoe.routed_methods import Modules


@dataclass(frozen=True)
class Part:
    """Modules that share a router.

    Attributes:
        paths: of the modules in the model: the linear maps of one MLP or one attention, or one norm.
        block: path of the block that they are in; None outside the blocks.
    """

    paths: tuple[str, ...]
    block: str | None = None


def find_parts(model: nn.Module, blocks: Mapping[str, Family], modules: Modules) -> list[Part]:
    """Find what is to be routed, in the order of the model's modules.

    Args:
        model: the base.
        blocks: as `wemoe.models.find_blocks` gives them.
        modules: `mlp`; `mlp+attention`; or `all`, which adds the norms in the blocks and outside, and the convolution
            that embeds patches.

    Raises:
        ValueError: attentions or norms are to be routed, and the description of a block does not say where they are.
    """
    if modules != "mlp":
        _check_described(blocks)
    parts = [part for path, family in blocks.items() for part in _of_block(path, family, modules)]
    if modules == "all":
        parts += [Part((path,)) for path in _outside(model, tuple(blocks))]
    order = {path: number for number, (path, _) in enumerate(model.named_modules(remove_duplicate=False))}
    return sorted(parts, key=lambda part: min(order[path] for path in part.paths))


def _check_described(blocks: Mapping[str, Family]) -> None:
    for path, family in blocks.items():
        if not (family.attention and family.norms):
            raise ValueError(
                f"modules must be 'mlp' for {family.name!r}, whose attention and norms are not described; to route "
                f"them too, give family=wemoe.Family(..., attention=..., norms=...) for blocks like {path!r}"
            )


def _of_block(block: str, family: Family, modules: Modules) -> Iterator[Part]:
    def part(*paths: str) -> Part:
        return Part(tuple(f"{block}.{path}" if block else path for path in paths), block)

    slots = family.mlp
    yield part(*(path for path in (slots.up, slots.gate, slots.down) if path is not None))
    if modules != "mlp":
        attentions: dict[str, list[str]] = {}
        for path in family.attention:
            attentions.setdefault(_attention_of(path), []).append(path)
        yield from (part(*paths) for paths in attentions.values())
    if modules == "all":
        yield from (part(path) for path in family.norms)


def _attention_of(path: str) -> str:
    """The path of the attention that a linear map belongs to: blocks of decoders may have two."""
    names = path.split(".")
    depth = next((depth for depth, name in enumerate(names, start=1) if "att" in name.lower()), 0)
    return ".".join(names[:depth])


def _outside(model: nn.Module, blocks: tuple[str, ...]) -> Iterator[str]:
    """Paths of the norms and convolutions outside the blocks."""
    inside = tuple(f"{path}." for path in blocks)
    for path, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower() and next(module.parameters(recurse=False), None) is not None
        if (is_norm or isinstance(module, nn.Conv2d)) and not f"{path}.".startswith(inside):
            yield path
