"""Parameter shapes of well-known transformers: enough to count parameters, without weights and without torch.

Names and shapes are those of the models' own state dicts (OpenCLIP as its first releases named them,
transformers 5 for the others), so that a description can be held against a real model, name by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Part:
    """One module of a model that can be routed.

    Attributes:
        kind: what it is: an MLP, an attention, a norm, the convolution that makes patches, or one that published code
            routes though the output does not depend on it.
        shapes: its parameters, named relative to the block or the model that holds it.
    """

    kind: Literal["mlp", "attention", "norm", "patches", "unread"]
    shapes: Shapes


@dataclass(frozen=True)
class Architecture:
    """A stack of equal blocks, and what is around it.

    Attributes:
        width: size of the hidden states, D.
        depth: number of blocks.
        blocks: name of the list that holds the blocks.
        block: the modules of one block; together they have all its parameters.
        around: modules outside the blocks.
        rest: parameters outside the blocks that are never routed.
    """

    width: int
    depth: int
    blocks: str
    block: tuple[Part, ...]
    around: tuple[Part, ...]
    rest: Shapes

    def parts(self) -> tuple[Part, ...]:
        """Every module of the model that can be routed."""
        return self.around + self.depth * self.block

    def shapes(self) -> dict[str, Shape]:
        """Every parameter of the model by its full name."""
        shapes = {**self.rest, **_joined(self.around)}
        for index in range(self.depth):
            for name, shape in _joined(self.block).items():
                shapes[f"{self.blocks}.{index}.{name}"] = shape
        return shapes


def _joined(parts: tuple[Part, ...]) -> Shapes:
    return dict(chain.from_iterable(part.shapes.items() for part in parts))


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _conv1d(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Part:
    return Part("norm", {f"{name}.weight": (width,), f"{name}.bias": (width,)})


def _openclip_image_encoder(*, patch: int, width: int, depth: int, text_width: int) -> Architecture:
    """The image encoder of OpenCLIP at 224 pixels, as the WEMoE and PWEMoE papers count it.

    The published code deletes CLIP's text transformer but keeps the text embeddings, norm and projection, so
    they are among its parameters. The joint embedding is as wide as the text transformer. With all modules routed it
    routes the text's token embeddings and norm, and an identity in each block (`ln_attn`), which no image ever sees.
    """
    tokens = (224 // patch) ** 2 + 1
    return Architecture(
        width=width,
        depth=depth,
        blocks="visual.transformer.resblocks",
        block=(
            _norm("ln_1", width),
            Part(
                "attention",
                {
                    "attn.in_proj_weight": (3 * width, width),
                    "attn.in_proj_bias": (3 * width,),
                    **_linear("attn.out_proj", width, width),
                },
            ),
            Part("unread", {}),  # ln_attn
            _norm("ln_2", width),
            Part("mlp", {**_linear("mlp.c_fc", width, 4 * width), **_linear("mlp.c_proj", 4 * width, width)}),
        ),
        around=(
            Part("patches", {"visual.conv1.weight": (width, 3, patch, patch)}),
            _norm("visual.ln_pre", width),
            _norm("visual.ln_post", width),
            Part("unread", {"token_embedding.weight": (49408, text_width)}),
            Part("unread", _norm("ln_final", text_width).shapes),
        ),
        rest={
            "visual.class_embedding": (width,),
            "visual.positional_embedding": (tokens, width),
            "visual.proj": (width, text_width),
            "positional_embedding": (77, text_width),
            "text_projection": (text_width, text_width),
            "logit_scale": (),
        },
    )


def _hf_clip_vision_model(*, patch: int, width: int, depth: int) -> Architecture:
    """``transformers.CLIPVisionModel`` at 224 pixels: no text parameters, no projection."""
    tokens = (224 // patch) ** 2 + 1
    return Architecture(
        width=width,
        depth=depth,
        blocks="encoder.layers",
        block=(
            Part(
                "attention",
                {
                    **_linear("self_attn.k_proj", width, width),
                    **_linear("self_attn.v_proj", width, width),
                    **_linear("self_attn.q_proj", width, width),
                    **_linear("self_attn.out_proj", width, width),
                },
            ),
            _norm("layer_norm1", width),
            Part("mlp", {**_linear("mlp.fc1", width, 4 * width), **_linear("mlp.fc2", 4 * width, width)}),
            _norm("layer_norm2", width),
        ),
        around=(
            Part("patches", {"embeddings.patch_embedding.weight": (width, 3, patch, patch)}),
            _norm("pre_layrnorm", width),  # spelled so
            _norm("post_layernorm", width),
        ),
        rest={
            "embeddings.class_embedding": (width,),
            "embeddings.position_embedding.weight": (tokens, width),
        },
    )


def _hf_bert_model(*, width: int, depth: int) -> Architecture:
    """``transformers.BertModel`` with its pooler and the uncased English vocabulary."""
    return Architecture(
        width=width,
        depth=depth,
        blocks="encoder.layer",
        block=(
            Part(
                "attention",
                {
                    **_linear("attention.self.query", width, width),
                    **_linear("attention.self.key", width, width),
                    **_linear("attention.self.value", width, width),
                    **_linear("attention.output.dense", width, width),
                },
            ),
            _norm("attention.output.LayerNorm", width),
            Part(
                "mlp",
                {**_linear("intermediate.dense", width, 4 * width), **_linear("output.dense", 4 * width, width)},
            ),
            _norm("output.LayerNorm", width),
        ),
        around=(_norm("embeddings.LayerNorm", width),),
        rest={
            "embeddings.word_embeddings.weight": (30522, width),
            "embeddings.position_embeddings.weight": (512, width),
            "embeddings.token_type_embeddings.weight": (2, width),
            **_linear("pooler.dense", width, width),
        },
    )


def _hf_gpt2_model(*, width: int, depth: int) -> Architecture:
    """``transformers.GPT2Model``: no head; its linear maps are stored transposed."""
    return Architecture(
        width=width,
        depth=depth,
        blocks="h",
        block=(
            _norm("ln_1", width),
            Part(
                "attention",
                {**_conv1d("attn.c_attn", width, 3 * width), **_conv1d("attn.c_proj", width, width)},
            ),
            _norm("ln_2", width),
            Part("mlp", {**_conv1d("mlp.c_fc", width, 4 * width), **_conv1d("mlp.c_proj", 4 * width, width)}),
        ),
        around=(_norm("ln_f", width),),
        rest={"wte.weight": (50257, width), "wpe.weight": (1024, width)},
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "openclip-vit-b-32": _openclip_image_encoder(patch=32, width=768, depth=12, text_width=512),
    "openclip-vit-b-16": _openclip_image_encoder(patch=16, width=768, depth=12, text_width=512),
    "openclip-vit-l-14": _openclip_image_encoder(patch=14, width=1024, depth=24, text_width=768),
    "hf-clip-vit-b-32": _hf_clip_vision_model(patch=32, width=768, depth=12),
    "hf-clip-vit-b-16": _hf_clip_vision_model(patch=16, width=768, depth=12),
    "hf-clip-vit-l-14": _hf_clip_vision_model(patch=14, width=1024, depth=24),
    "bert-base-uncased": _hf_bert_model(width=768, depth=12),
    "minilm-l6": _hf_bert_model(width=384, depth=6),
    "gpt2": _hf_gpt2_model(width=768, depth=12),
}
