"""One tiny random model of every family, with the inputs that it takes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from models import VISION, VOCABULARY

B, N = 3, 7

BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
TEXT_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CLIP_TEXT = BERT | TEXT_TOKENS
LLAMA = BERT | TEXT_TOKENS | {"num_key_value_heads": 1, "head_dim": 8}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}


class ResidualAttentionBlock(nn.Module):
    """A block as OpenCLIP's, with torch's own attention; hidden states [N, B, D] unless `batch_first`."""

    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 24))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(24, width))

    def forward(self, q_x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(q_x)
        q_x = q_x + self.attn(x, x, x, need_weights=False, attn_mask=attn_mask)[0]
        return q_x + self.mlp(self.ln_2(q_x))


class ImageEncoder(nn.Module):
    """An image encoder as the WEMoE authors have it, around a vision transformer as OpenCLIP's."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patches = nn.Conv2d(3, 16, kernel_size=4, stride=4)
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(16, batch_first) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)  # [B, N, D]
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x)
        return x if self.batch_first else x.transpose(0, 1)


@dataclass(frozen=True)
class Tiny:
    """How a tiny model is made and run.

    Attributes:
        make: the model, in evaluation mode.
        inputs: a random batch of B samples.
        family: what its description is called.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    family: str


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(B, 3, 8, 8)}


def padded_texts() -> dict[str, Tensor]:
    """Texts of 5, 6 and 7 tokens."""
    lengths = torch.arange(B) + 5
    real = torch.arange(N) < lengths.unsqueeze(1)
    return {"input_ids": torch.randint(3, VOCABULARY, (B, N)) * real, "attention_mask": real.long()}


def questions() -> dict[str, Tensor]:
    """Padded texts for the encoder, unpadded ones for the decoder, which begin with the start token."""
    answers = torch.randint(3, VOCABULARY, (B, 4))
    answers[:, 0] = 0
    return padded_texts() | {"decoder_input_ids": answers}


def texts_and_images() -> dict[str, Tensor]:
    return padded_texts() | images()


def of(kind: type, config: object) -> Callable[[], nn.Module]:
    return lambda: kind(config).eval()


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=8)).eval()


LLAMA_FAMILY, STRUCTURE = "Llama, Mistral and Qwen", "{}, by structure"

FAMILIES = {
    "clip vision": Tiny(of(CLIPVisionModel, CLIPVisionConfig(**VISION)), images, "CLIP"),
    "clip text": Tiny(of(CLIPTextModel, CLIPTextConfig(**CLIP_TEXT)), padded_texts, "CLIP"),
    "clip": Tiny(clip, texts_and_images, "CLIP"),
    "vit": Tiny(of(ViTModel, ViTConfig(**VISION)), images, "ViT"),
    "bert": Tiny(of(BertModel, BertConfig(**BERT)), padded_texts, "BERT and RoBERTa"),
    "bert decoder": Tiny(of(BertLMHeadModel, BertConfig(**BERT, is_decoder=True)), padded_texts, "BERT and RoBERTa"),
    "roberta": Tiny(of(RobertaModel, RobertaConfig(**BERT)), padded_texts, "BERT and RoBERTa"),
    "gpt2": Tiny(of(GPT2LMHeadModel, GPT2Config(**GPT2, **TEXT_TOKENS)), padded_texts, "GPT-2"),
    "t5": Tiny(of(T5ForConditionalGeneration, T5Config(**T5)), questions, "T5"),
    "flan-t5": Tiny(
        of(T5ForConditionalGeneration, T5Config(**T5, feed_forward_proj="gated-gelu")), questions, "Flan-T5"
    ),
    "llama": Tiny(of(LlamaForCausalLM, LlamaConfig(**LLAMA)), padded_texts, LLAMA_FAMILY),
    "qwen2": Tiny(of(Qwen2ForCausalLM, Qwen2Config(**LLAMA)), padded_texts, LLAMA_FAMILY),
    "qwen3": Tiny(of(Qwen3ForCausalLM, Qwen3Config(**LLAMA)), padded_texts, LLAMA_FAMILY),
    "openclip, batch first": Tiny(
        lambda: ImageEncoder(True).eval(), lambda: {"images": images()["pixel_values"]}, "OpenCLIP"
    ),
    "openclip, tokens first": Tiny(
        lambda: ImageEncoder(False).eval(), lambda: {"images": images()["pixel_values"]}, "OpenCLIP"
    ),
    "distilbert": Tiny(
        of(DistilBertModel, DistilBertConfig(vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=2)),
        padded_texts,
        STRUCTURE.format("TransformerBlock"),
    ),
    "phi3": Tiny(of(Phi3ForCausalLM, Phi3Config(**LLAMA)), padded_texts, STRUCTURE.format("Phi3DecoderLayer")),
}

WRITERS = ("bert decoder", "gpt2", "llama", "qwen2", "qwen3", "phi3")


def output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What a model gives for a batch: hidden states or logits, [B, N, ...] or [B, ...]."""
    found = model(**inputs)
    if isinstance(found, Tensor):
        return found
    if "image_embeds" in found:  # of CLIP, not the logits, which compare every text with every image
        return torch.cat([found.text_embeds, found.image_embeds], dim=1)
    return found.logits if "logits" in found else found.last_hidden_state
