"""Descriptions of well-known architectures against the models of transformers."""

from collections import Counter
from collections.abc import Iterator
from math import prod

import pytest
from torch import nn

from known_architectures import OF_TRANSFORMERS, build
from wemoe.architectures import ARCHITECTURES, Architecture

of_transformers = pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
KINDS = ("mlp", "attention", "norm", "patches")


@of_transformers
def test_names_and_shapes_are_those_of_the_real_model(architecture):
    described = ARCHITECTURES[architecture]
    model = build(architecture)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == described.shapes()


@of_transformers
def test_what_can_be_routed_are_the_real_models_norms_attentions_mlps_and_patches(architecture):
    described = ARCHITECTURES[architecture]
    found = Counter(parts_of(described))
    assert found == Counter(parts_found_in(build(architecture), described.blocks))


def parts_of(described: Architecture) -> Iterator[tuple[str, frozenset[str]]]:
    """Kind and full names of the parameters of every part that is described."""
    for part in described.around:
        yield part.kind, frozenset(part.shapes)
    for index in range(described.depth):
        for part in described.block:
            yield part.kind, frozenset(f"{described.blocks}.{index}.{name}" for name in part.shapes)


def parts_found_in(model: nn.Module, blocks: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The same, found by the classes of a real model's modules; the MLP is what else a block has."""
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    for path, module in model.named_modules():
        if path in norms:
            yield "norm", frozenset(parameters_below(path, module))
        elif isinstance(module, nn.Conv2d):
            yield "patches", frozenset(parameters_below(path, module))
    of_norms = {name for path in norms for name in parameters_below(path, model.get_submodule(path))}
    for index, block in enumerate(model.get_submodule(blocks)):
        path = f"{blocks}.{index}"
        (attention,) = [name for name, module in block.named_children() if type(module).__name__.endswith("Attention")]
        of_attention = parameters_below(f"{path}.{attention}", block.get_submodule(attention)) - of_norms
        yield "attention", frozenset(of_attention)
        yield "mlp", frozenset(parameters_below(path, block) - of_attention - of_norms)


def parameters_below(path: str, module: nn.Module) -> set[str]:
    return {f"{path}.{name}" for name, _ in module.named_parameters()}


# Modules of each kind: 12 (B, BERT, GPT-2), 24 (L) or 6 (MiniLM) blocks of one MLP, one attention and two norms; around
# them CLIP has two norms and the patches, BERT the norm of its embeddings, GPT-2 its last norm.
@pytest.mark.parametrize(
    ("architecture", "numbers"),
    [
        ("openclip-vit-b-32", {"mlp": 12, "attention": 12, "norm": 26, "patches": 1, "unread": 14}),
        ("openclip-vit-b-16", {"mlp": 12, "attention": 12, "norm": 26, "patches": 1, "unread": 14}),
        ("openclip-vit-l-14", {"mlp": 24, "attention": 24, "norm": 50, "patches": 1, "unread": 26}),
        ("hf-clip-vit-b-32", {"mlp": 12, "attention": 12, "norm": 26, "patches": 1}),
        ("hf-clip-vit-b-16", {"mlp": 12, "attention": 12, "norm": 26, "patches": 1}),
        ("hf-clip-vit-l-14", {"mlp": 24, "attention": 24, "norm": 50, "patches": 1}),
        ("bert-base-uncased", {"mlp": 12, "attention": 12, "norm": 25}),
        ("minilm-l6", {"mlp": 6, "attention": 6, "norm": 13}),
        ("gpt2", {"mlp": 12, "attention": 12, "norm": 25}),
    ],
)
def test_how_many_modules_there_are_of_each_kind(architecture, numbers):
    assert Counter(part.kind for part in ARCHITECTURES[architecture].parts()) == numbers


@pytest.mark.parametrize("size", ["b-32", "b-16", "l-14"])
@pytest.mark.parametrize("kind", KINDS)
def test_openclips_modules_that_images_pass_are_as_large_as_those_of_transformers(size, kind):
    openclip, transformers = (
        Counter(sum(map(prod, part.shapes.values())) for part in ARCHITECTURES[name].parts() if part.kind == kind)
        for name in (f"openclip-vit-{size}", f"hf-clip-vit-{size}")
    )
    assert openclip == transformers
