"""What a configuration file says of tasks: their data, and how a model reads them.

The types are checked once, when a file is read; nothing here reads data or imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Pooling = Literal["mean", "cls", "pooler"]
Part = Literal["train", "validation", "unlabeled", "test"]

SUFFIXES = (".jsonl", ".csv", ".tsv")


def _as_tuple(found: Any) -> Any:
    return (found,) if isinstance(found, str | Path) else found


Files = Annotated[tuple[Path, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class TaskConfig(BaseModel):
    """One task: files of samples, and how they are read.

    A file is JSON Lines, CSV or TSV by its name's end; the first line of a CSV or TSV file names the columns. Paths are
    relative to the configuration file, those of images to the file that names them.

    Attributes:
        train: labelled data that experts were fine-tuned on; a file, or a list of them.
        validation: labelled data to choose settings by.
        unlabeled: data to adapt on, read without labels. Where it is missing, the inputs of `adapt_on` are taken.
        test: labelled data to report accuracy on.
        adapt_on: part whose inputs stand in for `unlabeled`; by default those of `train`, else of `validation`. Test
            inputs are taken where this says `test` (the published, transductive setting), and never otherwise.
        text: column of the text, or two columns for pairs of texts; `text` where no column of images is named.
        image: column of the path of an image, instead of `text`.
        label: column of the label: the label's number, or its name.
        labels: names of the labels in the order of the head's outputs. By default the expert's own (`id2label` of a
            classifier), else the sorted distinct values of the labelled parts.
        head: folder of a headed model, or of a checkpoint with `heads.safetensors`, or such a file; by default the
            expert's own head.
        pooling: what a linear head reads: the mean over the tokens, the first token (`cls`), or the output of the
            model's pooler. By default `mean` for texts and `pooler` for images.
        max_length: number of tokens that texts are cut to; by default as many as the tokenizer says the model takes,
            but no more than 512.
        batch_size: of scoring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Files | None = None
    validation: Files | None = None
    unlabeled: Files | None = None
    test: Files | None = None
    adapt_on: Part | None = None
    text: str | tuple[str, str] | None = None
    image: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    head: Path | None = None
    pooling: Pooling | None = None
    max_length: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        parts = {"train": self.train, "validation": self.validation, "unlabeled": self.unlabeled, "test": self.test}
        given = {part: files for part, files in parts.items() if files is not None}
        if not given:
            raise ValueError(f"a task must name a data file for at least one of {', '.join(parts)}; found none")
        for part, files in given.items():
            for file in files:
                if file.suffix.lower() not in SUFFIXES:
                    raise ValueError(f"{part} must end in one of {', '.join(SUFFIXES)}; found {str(file)!r}")
        if self.text is not None and self.image is not None:
            raise ValueError("a task must have either text or image; found both")
        if self.adapt_on is not None and self.adapt_on not in given:
            raise ValueError(f"adapt_on must name a part that the task has, {list(given)}; found {self.adapt_on!r}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct; found {list(self.labels)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the inputs: one of a text or an image, two of a pair of texts."""
        if self.image is not None:
            return (self.image,)
        text = self.text or "text"
        return (text,) if isinstance(text, str) else text

    @property
    def adapts_on(self) -> Part | None:
        """The part whose inputs a model is adapted on; None where there is none that may be taken."""
        if self.adapt_on is not None:
            return self.adapt_on
        parts: tuple[Part, ...] = ("unlabeled", "train", "validation")
        return next((part for part in parts if getattr(self, part) is not None), None)
