"""What turns rows of data files into what a model reads: its own tokenizer or image processor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from wemoe.data.batches import Samples, Texts, tokenize
from wemoe.data.images import Images, image_files
from wemoe.data.tables import Row
from wemoe.data.text6 import Text
from wemoe.task_config import TaskConfig

MAX_LENGTH = 512  # tokens, where nobody says how long texts may be


class Reader(Protocol):
    """Makes samples of rows."""

    def read(self, rows: Sequence[Row]) -> Samples:
        """Return the samples; an input that is missing or of another kind is an error that tells where."""


@dataclass(frozen=True)
class TextReader:
    """Tokenizes texts or pairs of texts.

    Attributes:
        tokenizer: the model's own.
        columns: one, or two for pairs.
        max_length: number of tokens.
        pad_token_id: what pads a text.
    """

    tokenizer: PreTrainedTokenizerBase
    columns: tuple[str, ...]
    max_length: int
    pad_token_id: int

    def read(self, rows: Sequence[Row]) -> Texts:
        """Tokenize the texts of some rows.

        Raises:
            ValueError: a column is missing or holds no text, or a text has no token.
        """
        texts = tokenize(self.tokenizer, [self._text(row) for row in rows], self.max_length, self.pad_token_id)
        for row, length in zip(rows, texts.lengths(), strict=True):
            if length == 0:
                raise ValueError(
                    f"{row.place(self.columns[0])} must have at least one token; found {self._text(row)!r}"
                )
        return texts

    def _text(self, row: Row) -> Text:
        if len(self.columns) == 1:
            return row.text(self.columns[0])
        return row.text(self.columns[0]), row.text(self.columns[1])


@dataclass(frozen=True)
class ImageReader:
    """Finds image files.

    Attributes:
        processor: the model's own.
        column: of the path.
    """

    processor: BaseImageProcessor
    column: str

    def read(self, rows: Sequence[Row]) -> Images:
        """Find the images of some rows.

        Raises:
            ValueError: a column is missing or holds no text, or there is no such file.
        """
        return Images(image_files(rows, self.column), self.processor)


def load_reader(name: str, task: TaskConfig, config: PreTrainedConfig, pad_token_id: int | None) -> Reader:
    """Load what reads a task's rows.

    Args:
        name: folder or repository that has the model's tokenizer or image processor.
        task: says whether there are texts or images, and in which columns.
        config: the model's configuration.
        pad_token_id: what the task's head takes for padding, if it says so.

    Raises:
        ValueError: there is no tokenizer or processor, or texts are to be longer than the model can read.
    """
    if task.image_column is not None:
        return ImageReader(_load_processor(name), task.image_column)
    tokenizer = load_tokenizer(name)
    if pad_token_id is None:
        pad_token_id = _pad_token(name, tokenizer)
    return TextReader(tokenizer, task.columns, _max_length(task, tokenizer, config), pad_token_id)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ValueError: the folder or repository has none.
    """
    try:
        tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} must have a tokenizer, to read texts; found: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes where there are no files
        raise ValueError(f"{name!r} must have a tokenizer, to read texts; found none with a vocabulary")
    return tokenizer


def _load_processor(name: str) -> BaseImageProcessor:
    try:
        found = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} must have an image processor, to read images; found: {error}") from error
    return cast("BaseImageProcessor", found)


def _pad_token(name: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of the token that pads texts."""
    if tokenizer.pad_token_id is not None:
        return cast("int", tokenizer.pad_token_id)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} must have a padding token or an end token; found neither")
    warnings.warn(
        f"the tokenizer of {name!r} has no padding token; its end token {tokenizer.eos_token!r} pads texts, and the "
        "attention mask leaves it out",
        stacklevel=2,
    )
    return cast("int", tokenizer.eos_token_id)


def _max_length(task: TaskConfig, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if task.max_length is None:
        return min(tokenizer.model_max_length, MAX_LENGTH, positions or MAX_LENGTH)
    if positions is not None and task.max_length > positions:
        raise ValueError(f"max_length must be at most what the model can read, {positions}; found {task.max_length}")
    return task.max_length
