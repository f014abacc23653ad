"""The models that well-known architectures describe, built without weights."""

import torch
from torch import nn
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, GPT2Config, GPT2Model

from wemoe.architectures import ARCHITECTURES

OF_TRANSFORMERS = [name for name in ARCHITECTURES if not name.startswith("openclip")]


def build(name: str) -> nn.Module:
    """The real model, on no device: shapes without weights."""
    described = ARCHITECTURES[name]
    sizes = {
        "hidden_size": described.width,
        "num_hidden_layers": described.depth,
        "num_attention_heads": described.width // 64,
    }
    with torch.device("meta"):
        if name.startswith("gpt2"):
            return GPT2Model(GPT2Config(**sizes))
        sizes["intermediate_size"] = 4 * described.width
        if name.startswith("hf-clip"):
            return CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=int(name.rsplit("-", 1)[1])))
        return BertModel(BertConfig(**sizes))
