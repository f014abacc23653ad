"""Texts as padded batches, texts of like length together, since padding costs as much as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from wemoe.data.text6 import LabelledTexts, Text, TextTask

Tokens = dict[str, Tensor]  # of one text: input_ids, token_type_ids, attention_mask; each [N]


class Batch(NamedTuple):
    """Model inputs, padded, and which rows of the task's texts they are."""

    inputs: dict[str, Tensor]  # each [B, N]
    rows: Tensor  # [B]


@dataclass(frozen=True)
class LabelledTokens:
    """Tokenized texts with their labels [len(texts)]."""

    texts: list[Tokens]
    labels: Tensor

    def sorted_batches(self, size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield every text once, shortest first, with the labels of its batch."""
        for batch in sorted_batches(self.texts, size):
            yield batch, self.labels[batch.rows]


@dataclass(frozen=True)
class TokenizedTask:
    """A `TextTask` as a model reads it."""

    num_labels: int
    train: LabelledTokens
    validation: LabelledTokens
    unlabeled: list[Tokens]
    test: LabelledTokens


def tokenize_task(task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedTask:
    """Tokenize all parts of a task, each text cut to `max_length` tokens."""

    def labelled(part: LabelledTexts) -> LabelledTokens:
        return LabelledTokens(tokenize(tokenizer, part.texts, max_length), torch.tensor(part.labels))

    return TokenizedTask(
        num_labels=len(task.label_names),
        train=labelled(task.train),
        validation=labelled(task.validation),
        unlabeled=tokenize(tokenizer, task.unlabeled, max_length),
        test=labelled(task.test),
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int) -> list[Tokens]:
    """Tokenize texts or pairs of texts, cut to `max_length` tokens."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    return [{name: torch.tensor(rows[i]) for name, rows in encoded.items()} for i in range(len(texts))]


def sorted_batches(texts: Sequence[Tokens], size: int) -> Iterator[Batch]:
    """Yield every text once, shortest first."""
    rows = sorted(range(len(texts)), key=lambda row: _length(texts[row]))
    for chunk in _chunks(rows, size):
        yield _batch(texts, chunk)


class ShuffledBatches:
    """Batches in an order that is new in each iteration, yet decided by the seed.

    Chunks of 16 batches are drawn at random, sorted by length within, and their batches shuffled.
    """

    def __init__(self, texts: Sequence[Tokens], size: int, seed: int) -> None:
        self._texts = texts
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        """Yield every text once."""
        batches: list[list[int]] = []
        for chunk in _chunks(self._permutation(len(self._texts)), 16 * self._size):
            batches += _chunks(sorted(chunk, key=lambda row: _length(self._texts[row])), self._size)
        for index in self._permutation(len(batches)):
            yield _batch(self._texts, batches[index])

    def __len__(self) -> int:
        """Count the batches of one iteration."""
        return -(-len(self._texts) // self._size)

    def _permutation(self, length: int) -> list[int]:
        return torch.randperm(length, generator=self._generator).tolist()


def _batch(texts: Sequence[Tokens], rows: list[int]) -> Batch:
    inputs = {name: pad_sequence([texts[row][name] for row in rows], batch_first=True) for name in texts[rows[0]]}
    return Batch(inputs, torch.tensor(rows))


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _length(tokens: Tokens) -> int:
    return len(tokens["input_ids"])
