"""Hugging Face pipelines on routed models with a head: what calling the model by hand gives."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, ViTImageProcessor, pipeline

import wemoe
from headed import headed_experts, routed_backbone
from models import VOCABULARY, experts_of, randomised
from tiny_families import FAMILIES

TEXTS = ["one two three", "four", "five six seven eight nine", "ten eleven"]
NEW = 5


@pytest.fixture
def tokenizer():
    """Words of the tiny models' vocabulary."""
    words = ["[PAD]", "[UNK]", "[END]", *" ".join(TEXTS).split()]
    words += [f"word{number}" for number in range(len(words), VOCABULARY)]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[END]",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture
def processor():
    return ViTImageProcessor(size={"height": 8, "width": 8})


def scores(found):
    """By sample, the scores in the order of their labels."""
    return torch.tensor([[each["score"] for each in sorted(labels, key=lambda e: e["label"])] for labels in found])


def labels_of(found):
    return [sorted(each["label"] for each in labels) for labels in found]


def test_text_classification(tokenizer):
    experts = headed_experts("bert")
    model = routed_backbone(experts)
    for task, expert in experts.items():
        headed = wemoe.with_head(model, expert)
        classify = pipeline("text-classification", model=headed, tokenizer=tokenizer, device="cpu")
        found = classify(TEXTS, batch_size=len(TEXTS), top_k=None)
        names = list(expert.config.id2label.values())
        assert labels_of(found) == [names] * len(TEXTS), task
        with torch.inference_mode():
            logits = headed(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        torch.testing.assert_close(scores(found), logits.softmax(-1))
        alone = classify(TEXTS, batch_size=1, top_k=None)
        # one text at a time: no padding, so attention takes its sums in another order
        torch.testing.assert_close(scores(alone), scores(found), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_image_classification(kind, processor):
    numbers = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 3), dtype=np.uint8)
    pictures = [Image.fromarray(each) for each in numbers]
    experts = headed_experts(kind)
    model = routed_backbone(experts)
    for task, expert in experts.items():
        headed = wemoe.with_head(model, expert)
        classify = pipeline("image-classification", model=headed, image_processor=processor, device="cpu")
        found = classify(pictures, batch_size=len(pictures), top_k=None)
        assert labels_of(found) == [list(expert.config.id2label.values())] * len(pictures), task
        with torch.inference_mode():
            logits = headed(**processor(pictures, return_tensors="pt")).logits
        torch.testing.assert_close(scores(found), logits.softmax(-1))


def text_generators():
    """A model upcycled whole, and a routed backbone under the head of one expert."""
    base = FAMILIES["gpt2"].make()
    experts = experts_of(base)
    backbones = {task: expert.transformer for task, expert in experts.items()}
    return {
        "whole": randomised(wemoe.upcycle(base, experts)),
        "backbone": wemoe.with_head(randomised(wemoe.upcycle(base.transformer, backbones)), experts["task0"]),
    }


@pytest.mark.parametrize("how", ["whole", "backbone"])
def test_text_generation(how, tokenizer):
    model = text_generators()[how]
    assert isinstance(model, GPT2LMHeadModel)
    tokenizer.padding_side = "left"  # texts are continued on the right
    write = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    options = {"max_new_tokens": NEW, "do_sample": False, "suppress_tokens": [tokenizer.eos_token_id]}
    found = write(TEXTS, batch_size=len(TEXTS), return_tensors=True, **options)
    for text, (each,) in zip(TEXTS, found, strict=True):
        assert each["generated_token_ids"][-NEW:] == written_by_hand(model, tokenizer, text), text


def written_by_hand(model, tokenizer, text):
    """The likeliest token, again and again, by whole forwards that are routed by the text alone."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    prompt_mask = torch.ones_like(ids)
    for _ in range(NEW):
        logits = model(input_ids=ids, prompt_mask=prompt_mask).logits[:, -1]
        logits[:, tokenizer.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[0, -NEW:].tolist()
