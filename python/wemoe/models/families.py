"""Family descriptions: the paths, inside one transformer block, of what can be routed.

A family is recognised by the class name of its blocks, wherever in a model they stand and whatever the model around
them is called.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class MLPSlots:
    """Paths of down(activation(up(x))) inside a block, and what the routed MLP takes the place of.

    Where the MLP is a module of its own, the routed MLP replaces it whole. Where it is spread over the block, `down`
    becomes the routed MLP and what stands before it, activation included, becomes an identity.
    """

    up: str
    activation: str
    down: str
    replaced: str
    bypassed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    Attributes:
        name: as its documentation calls it.
        block: class name of its transformer block, whose forward takes `attention_mask`.
        mlp: where a block keeps its MLP.
        attention: paths of the attention's linear maps inside a block: query, key, value, output.
        norms: paths of the norms inside a block.
    """

    name: str
    block: str
    mlp: MLPSlots
    attention: tuple[str, str, str, str]
    norms: tuple[str, ...]


BERT = Family(
    name="BERT",
    block="BertLayer",
    mlp=MLPSlots(
        up="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        down="output.dense",
        replaced="output.dense",
        bypassed=("intermediate",),
    ),
    attention=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)

CLIP = Family(
    name="CLIP",
    block="CLIPEncoderLayer",
    mlp=MLPSlots(up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2", replaced="mlp"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    norms=("layer_norm1", "layer_norm2"),
)

VIT = Family(
    name="ViT",
    block="ViTLayer",
    mlp=MLPSlots(up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2", replaced="mlp"),
    attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    norms=("layernorm_before", "layernorm_after"),
)

FAMILIES = (BERT, CLIP, VIT)


def find_blocks(model: nn.Module) -> dict[str, Family]:
    """Find the transformer blocks of known families in a model.

    Returns:
        Family by the block's path in the model, in the order of the model's modules.

    Raises:
        ValueError: the model holds no block of a known family, or a block that sees only earlier tokens (a router's
            mean over all tokens would let it see later ones).
    """
    families = {name: _family(module) for name, module in model.named_modules()}
    blocks = {name: family for name, family in families.items() if family is not None}
    if not blocks:
        known = ", ".join(f"{family.name} ({family.block})" for family in FAMILIES)
        raise ValueError(
            f"base_model must hold transformer blocks of a known family: {known}; found none in {type(model).__name__}"
        )
    for name in blocks:
        if getattr(model.get_submodule(name), "is_decoder", False):
            raise ValueError(
                f"base_model must read its tokens in both directions; block {name!r} is a decoder's, and a router "
                "that averages over all tokens would let it see later ones"
            )
    return blocks


def _family(module: nn.Module) -> Family | None:
    """Return the family of a block, or of a subclass of one."""
    names = {kind.__name__ for kind in type(module).__mro__}
    return next((family for family in FAMILIES if family.block in names), None)
