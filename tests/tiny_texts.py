"""A tiny random BERT and two tiny tasks that it can read: the quick start's path in seconds."""

import itertools

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from wemoe.data.text6 import LabelledTexts, TextTask

WORDS = {
    "colours": (["red", "pink", "orange"], ["blue", "green", "cyan"]),
    "animals": (["dog", "wolf", "fox"], ["crow", "owl", "duck"]),
}


def tiny_base():
    """A random BERT of two layers with a tokenizer of whole words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "is", *itertools.chain(*sum(WORDS.values(), ()))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
        )
        return BertModel(config).eval(), fast


def tiny_tasks():
    """Two tasks of two labels, 24 texts a part; `animals` has pairs of texts."""
    return {
        "colours": _task("colours", lambda words: "the " + " is ".join(words)),
        "animals": _task("animals", lambda words: (words[0], " the ".join(words[1:] or words))),
    }


def _task(name, text_of):
    kinds = WORDS[name]

    def part(start):
        rows = range(start, start + 24)
        words = [[kinds[row % 2][(row // 2 + i) % 3] for i in range(1 + row % 4)] for row in rows]
        return LabelledTexts(tuple(text_of(each) for each in words), tuple(row % 2 for row in rows))

    return TextTask(name, ("one", "other"), part(0), part(24), part(48).texts, part(72))
