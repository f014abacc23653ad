"""Samples as padded batches, texts of like length together, since padding costs as much as text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from wemoe.data.text6 import LabelledTexts, Text, TextTask
from wemoe.task_config import Pooling

Tokens = dict[str, Tensor]  # of one text: input_ids, token_type_ids, attention_mask; each [N]


class Batch(NamedTuple):
    """Model inputs, padded, and which of the task's samples they are."""

    inputs: dict[str, Tensor]  # texts: each [B, N]; images: pixel_values [B, 3, H, W]
    rows: Tensor  # [B]


class Samples(ABC):
    """What a model reads, sample by sample; batches are made when they are needed."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def lengths(self) -> list[int]:
        """Return what each sample costs to read, in any unit: batches hold samples of like cost."""

    @abstractmethod
    def inputs(self, rows: list[int]) -> dict[str, Tensor]:
        """Return model inputs of some of the samples, each [B, ...]."""

    def batch(self, rows: list[int]) -> Batch:
        """Return a batch of some of the samples."""
        return Batch(self.inputs(rows), torch.tensor(rows))

    def padded(self, inputs: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        """Fill inputs up to a number of tokens; those of samples that have no tokens stay as they are."""
        return inputs


@dataclass(frozen=True)
class Chosen(Samples):
    """Some of other samples; nothing is copied.

    Attributes:
        samples: all of them.
        rows: which, in their order.
    """

    samples: Samples
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> list[int]:
        """Return what each of the chosen samples costs."""
        lengths = self.samples.lengths()
        return [lengths[row] for row in self.rows]

    def inputs(self, rows: list[int]) -> dict[str, Tensor]:
        """Return model inputs of some of the chosen samples, each [B, ...]."""
        return self.samples.inputs([self.rows[row] for row in rows])

    def padded(self, inputs: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        """Fill inputs up to a number of tokens, as the samples are that these were chosen from."""
        return self.samples.padded(inputs, tokens)


@dataclass(frozen=True)
class Texts(Samples):
    """Tokenized texts.

    Attributes:
        tokens: of each text.
        pad_values: by input, what fills it up; zero where nothing is said.
        padding_side: where padding goes.
    """

    tokens: Sequence[Tokens]
    pad_values: Mapping[str, int] = field(default_factory=dict)
    padding_side: Literal["left", "right"] = "right"

    def __len__(self) -> int:
        return len(self.tokens)

    def lengths(self) -> list[int]:
        """Count the tokens of each text."""
        return [len(tokens["input_ids"]) for tokens in self.tokens]

    def inputs(self, rows: list[int]) -> dict[str, Tensor]:
        """Return the tokens of some of the texts, padded to the longest, each [B, N]."""
        return {
            name: pad_sequence(
                [self.tokens[row][name] for row in rows],
                batch_first=True,
                padding_value=self.pad_values.get(name, 0),
                padding_side=self.padding_side,
            )
            for name in self.tokens[rows[0]]
        }

    def padded(self, inputs: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        """Fill inputs [B, N] up to a number of tokens of at least N."""
        left = self.padding_side == "left"

        def fill(name: str, found: Tensor) -> Tensor:
            missing = tokens - found.shape[1]
            return F.pad(found, (missing, 0) if left else (0, missing), value=self.pad_values.get(name, 0))

        return {name: fill(name, found) for name, found in inputs.items()}


@dataclass(frozen=True)
class Labelled:
    """Samples with their labels [len(samples)]."""

    samples: Samples
    labels: Tensor

    def sorted_batches(self, size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield every sample once, shortest first, with the labels of its batch."""
        for batch in sorted_batches(self.samples, size):
            yield batch, self.labels[batch.rows]

    def at_most(self, count: int | None) -> Labelled:
        """Return some of the samples, the same ones each time: drawn at random, since files are often sorted by label.

        Args:
            count: how many; where it is None, or there are no more, all of them.

        Raises:
            ValueError: `count` is below 1.
        """
        if count is not None and count < 1:
            raise ValueError(f"the number of samples must be at least 1; found {count}")
        if count is None or count >= len(self.samples):
            return self
        rows = drawn_rows(len(self.samples), count)
        return Labelled(Chosen(self.samples, rows), self.labels[rows])


def drawn_rows(total: int, count: int) -> list[int]:
    """Draw some of the rows 0 .. total - 1 at random, the same ones each time, and return them in their order."""
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]
    return drawn.sort().values.tolist()


@dataclass(frozen=True)
class Task:
    """A task as a model reads it; a part that is None is not there.

    Attributes:
        num_labels: C.
        train: what experts are fine-tuned on.
        validation: what is used to choose between settings.
        unlabeled: what models are adapted on.
        test: what is reported.
        pooling: what a linear head reads of a model.
        batch_size: of scoring.
    """

    num_labels: int
    train: Labelled | None = None
    validation: Labelled | None = None
    unlabeled: Samples | None = None
    test: Labelled | None = None
    pooling: Pooling = "mean"
    batch_size: int = 64


def tokenize_task(task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Task:
    """Tokenize all parts of a task, each text cut to `max_length` tokens."""

    def labelled(part: LabelledTexts) -> Labelled:
        return Labelled(tokenize(tokenizer, part.texts, max_length), torch.tensor(part.labels))

    return Task(
        num_labels=len(task.label_names),
        train=labelled(task.train),
        validation=labelled(task.validation),
        unlabeled=tokenize(tokenizer, task.unlabeled, max_length),
        test=labelled(task.test),
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], max_length: int, pad_token_id: int | None = None
) -> Texts:
    """Tokenize texts or pairs of texts, cut to `max_length` tokens.

    Args:
        tokenizer: tells the side and the values of padding too.
        texts: texts, or pairs of texts.
        max_length: number of tokens.
        pad_token_id: what pads a text, where it is not the tokenizer's own.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    tokens = [{name: torch.tensor(rows[i]) for name, rows in encoded.items()} for i in range(len(texts))]
    own = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    given = {} if pad_token_id is None else {"input_ids": pad_token_id}
    pad_values = {name: value for name, value in (own | given).items() if value is not None}
    return Texts(tokens, pad_values, "left" if tokenizer.padding_side == "left" else "right")


def sorted_batches(samples: Samples, size: int) -> Iterator[Batch]:
    """Yield every sample once, shortest first."""
    lengths = samples.lengths()
    for chunk in _chunks(sorted(range(len(samples)), key=lengths.__getitem__), size):
        yield samples.batch(chunk)


def read_all(samples: Samples, size: int, read: Callable[[Batch], Tensor]) -> Tensor:
    """Return what a function gives for every sample, in the samples' order [len(samples), ...].

    Args:
        samples: what is read, in batches of samples of like length.
        size: of a batch.
        read: from a batch of B samples to [B, ...].
    """
    batches = [(batch.rows, read(batch)) for batch in sorted_batches(samples, size)]
    rows, found = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return found[rows.argsort()]


class ShuffledBatches:
    """Batches in an order that is new in each iteration, yet decided by the seed.

    Chunks of 16 batches are drawn at random, sorted by length within, and their batches shuffled.
    """

    def __init__(self, samples: Samples, size: int, seed: int) -> None:
        self._samples = samples
        self._lengths = samples.lengths()
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        """Yield every sample once."""
        batches: list[list[int]] = []
        for chunk in _chunks(self._permutation(len(self._samples)), 16 * self._size):
            batches += _chunks(sorted(chunk, key=self._lengths.__getitem__), self._size)
        for index in self._permutation(len(batches)):
            yield self._samples.batch(batches[index])

    def __len__(self) -> int:
        """Count the batches of one iteration."""
        return -(-len(self._samples) // self._size)

    def _permutation(self, length: int) -> list[int]:
        return torch.randperm(length, generator=self._generator).tolist()


class ShuffledPairs:
    """Shuffled batches with their labels, in the order of `ShuffledBatches`."""

    def __init__(self, labelled: Labelled, size: int, seed: int) -> None:
        self._labels = labelled.labels
        self._batches = ShuffledBatches(labelled.samples, size, seed)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield every sample once, with the labels [B] of its batch."""
        for batch in self._batches:
            yield batch, self._labels[batch.rows]

    def __len__(self) -> int:
        """Count the batches of one iteration."""
        return len(self._batches)


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
