"""Tiny random models: a base and experts that differ from it in every parameter."""

import copy

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from wemoe.preference_routers import PreferenceRouter
from wemoe.router_sharing import routers_of

VOCABULARY = 50


def tiny_bert(**changes) -> BertModel:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    return BertModel(BertConfig(**settings | changes)).eval()


VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def tiny_clip() -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()


def tiny_vit() -> ViTModel:
    return ViTModel(ViTConfig(**VISION)).eval()


BASES = {"bert": tiny_bert, "clip": tiny_clip, "vit": tiny_vit}


def inputs_of(model: PreTrainedModel, batch: int = 3) -> dict[str, torch.Tensor]:
    """A random batch of what a base takes; BERT's samples are of different lengths."""
    if isinstance(model, BertModel):
        lengths = torch.arange(batch) % 3 + 5  # [B]
        return {
            "input_ids": torch.randint(1, VOCABULARY, (batch, 7)),
            "attention_mask": (torch.arange(7) < lengths.unsqueeze(1)).long(),
        }
    return {"pixel_values": torch.randn(batch, 3, 8, 8)}


def fine_tuned(base, seed: int, size: float = 0.1):
    """A copy of a base, moved in every floating-point parameter."""
    expert = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return expert


def experts_of(base, tasks: int = 3):
    return {f"task{t}": fine_tuned(base, seed=t + 1) for t in range(tasks)}


def randomised(model):
    """A routed model whose routers were given weights that tell samples, or preferences, apart."""
    for router in routers_of(model):
        for parameter in router.parameters():
            nn.init.normal_(parameter, std=0.3)
        if isinstance(router, PreferenceRouter) and router.fc1 is not None:
            router.fc1.weight.data.abs_()  # one preference could leave every hidden unit dead
            router.fc1.bias.data.abs_()
    return model


def save(models, folder, **options):
    """Save a base and its experts; return where they are."""
    base, experts = models
    base.save_pretrained(folder / "base", **options)
    for task, expert in experts.items():
        expert.save_pretrained(folder / task, **options)
    return folder / "base", {task: folder / task for task in experts}
