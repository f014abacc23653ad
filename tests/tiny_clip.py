"""A tiny random CLIP with both towers, tokenizer and image processor, and what a user has beside it."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessorPil,
)

from models import VISION, fine_tuned

WORDS = ["<pad>", "<start>", "<unk>", "<end>", *["a", "photo", "of", "drawing", "the", "red", "green", "blue", "."]]
TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 3,  # of 2, CLIP's oldest configurations, transformers takes the largest number instead
    "pad_token_id": 0,
}


def tiny_tokenizer(words=WORDS):
    """A tokenizer of whole words, with CLIP's frame of tokens around each text."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_clip(**text):
    """A CLIP whose weights are far enough from zero that texts and images differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(vision_config=VISION, text_config=TEXT | text, projection_dim=8)
        return fine_tuned(CLIPModel(config).eval(), seed=0, size=0.3)


def tiny_siglip():
    """A SigLIP, whose towers have features of one width and no projections."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = SiglipConfig(vision_config=VISION, text_config=TEXT | {"projection_size": VISION["hidden_size"]})
        return fine_tuned(SiglipModel(config).eval(), seed=0, size=0.3)


def save_clip(folder, model=None, words=WORDS):
    """Save a CLIP as the Hub has it: both towers, tokenizer and image processor; return the model."""
    model = model or tiny_clip()
    model.save_pretrained(folder)
    tiny_tokenizer(words).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return model
