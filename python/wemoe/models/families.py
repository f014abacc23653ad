"""Family descriptions: the paths, inside one transformer block, of what can be routed.

A family is recognised by the class name of its blocks, wherever in a model they stand and whatever the model around
them is called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from wemoe.mlps import MLPSlots, find_paths, resolve


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    Attributes:
        name: as its documentation calls it.
        blocks: class names of its transformer blocks. A block whose forward takes `attention_mask` keeps padding out
            of the routing; in any other one every token votes.
        mlp: where a block keeps its MLP.
        attention: paths of the attention's linear maps inside a block: query, key, value (or one map for all three),
            output; or of a `torch.nn.MultiheadAttention`, whole. `*` stands for what differs between blocks.
        norms: paths of the norms inside a block.
    """

    name: str
    blocks: tuple[str, ...]
    mlp: MLPSlots
    attention: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


BERT = Family(
    name="BERT and RoBERTa",
    blocks=("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer"),
    mlp=MLPSlots(
        up="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        down="output.dense",
        replaced="output.dense",
        bypassed=("intermediate",),
    ),
    attention=("*attention.self.query", "*attention.self.key", "*attention.self.value", "*attention.output.dense"),
    norms=("*attention.output.LayerNorm", "output.LayerNorm"),
)

CLIP = Family(
    name="CLIP",
    blocks=("CLIPEncoderLayer", "SiglipEncoderLayer"),
    mlp=MLPSlots(up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2", replaced="mlp"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    norms=("layer_norm1", "layer_norm2"),
)

VIT = Family(
    name="ViT",
    blocks=("ViTLayer",),
    mlp=MLPSlots(up="mlp.fc1", activation="mlp.activation_fn", down="mlp.fc2", replaced="mlp"),
    attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    norms=("layernorm_before", "layernorm_after"),
)

GPT2 = Family(
    name="GPT-2",
    blocks=("GPT2Block",),
    mlp=MLPSlots(up="mlp.c_fc", activation="mlp.act", down="mlp.c_proj", replaced="mlp"),
    attention=("attn.c_attn", "attn.c_proj", "crossattention.q_attn", "crossattention.c_attn", "crossattention.c_proj"),
    norms=("ln_1", "ln_2", "ln_cross_attn"),
)

T5 = Family(
    name="T5",
    blocks=("T5Block",),
    mlp=MLPSlots(
        up="layer.*.DenseReluDense.wi",
        activation="layer.*.DenseReluDense.act",
        down="layer.*.DenseReluDense.wo",
        replaced="layer.*.DenseReluDense",
    ),
    attention=tuple(f"layer.*.{kind}.{name}" for kind in ("SelfAttention", "EncDecAttention") for name in "qkvo"),
    norms=("layer.*.layer_norm",),
)

FLAN_T5 = replace(
    T5,
    name="Flan-T5",
    blocks=("T5Block", "MT5Block"),
    mlp=replace(T5.mlp, gate="layer.*.DenseReluDense.wi_0", up="layer.*.DenseReluDense.wi_1"),
)

LLAMA = Family(
    name="Llama, Mistral and Qwen",
    blocks=("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"),
    mlp=MLPSlots(
        gate="mlp.gate_proj",
        activation="mlp.act_fn",
        up="mlp.up_proj",
        down="mlp.down_proj",
        replaced="mlp",
    ),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    norms=("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
)

OPEN_CLIP = Family(
    name="OpenCLIP",
    blocks=("ResidualAttentionBlock",),
    mlp=MLPSlots(up="mlp.c_fc", activation="mlp.gelu", down="mlp.c_proj", replaced="mlp"),
    attention=("attn",),
    norms=("ln_1", "ln_2"),
)

FAMILIES = (BERT, CLIP, VIT, GPT2, T5, FLAN_T5, LLAMA, OPEN_CLIP)


def describe(block: nn.Module, families: tuple[Family, ...] = FAMILIES) -> Family | None:
    """Describe one block by the first family that it fits, paths of this very block in place of patterns.

    A block belongs to a family if its class, or a class that it extends, has one of the family's names and its MLP is
    where the family has it.
    """
    names = {kind.__name__ for kind in type(block).__mro__}
    for family in families:
        slots = resolve(block, family.mlp) if names.intersection(family.blocks) else None
        if slots is not None:
            attention, norms = (
                tuple(dict.fromkeys(path for pattern in patterns for path in find_paths(block, pattern)))
                for patterns in (family.attention, family.norms)
            )
            return replace(family, mlp=slots, attention=attention, norms=norms)
    return None
