"""What a configuration file says of tasks: their data, and how a model reads them.

The types are checked once, when a file is read; nothing here reads data or imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wemoe.config_sections import DatasetSource, ModelSource

Pooling = Literal["mean", "cls", "pooler"]
Part = Literal["train", "validation", "unlabeled", "test"]

PARTS: tuple[Part, ...] = ("train", "validation", "unlabeled", "test")
SUFFIXES = (".jsonl", ".csv", ".tsv")


def _as_tuple(found: Any) -> Any:
    return (found,) if isinstance(found, str | Path) else found


Files = Annotated[tuple[Path, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class DatasetConfig(BaseModel):
    """A data set of the Hub, or a folder that the package `datasets` reads.

    Attributes:
        name: repository, or folder; also one that `save_to_disk` has written.
        config: which of its configurations.
        revision: branch, tag or commit of the repository.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetSource
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        """Name it for people."""
        return self.name if self.config is None else f"{self.name} ({self.config})"


class ZeroShotConfig(BaseModel):
    """A head that is made of the names of the classes, by a contrastive model's text tower.

    Attributes:
        model: folder or repository of a CLIP or a SigLIP with both towers; by default `base_model`.
        classes: what each class is called in a text, in the order of the labels; by default the labels' own names, with
            spaces for underscores.
        templates: texts with `{}` in the place of the class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSource | None = None
    classes: tuple[str, ...] | None = Field(default=None, min_length=2)
    templates: tuple[str, ...] = Field(default=("a photo of a {}.",), min_length=1)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in classes or () if (classes or ()).count(name) > 1})
        if twice:
            raise ValueError(f"must be distinct; found twice: {', '.join(twice)}")
        return classes

    @field_validator("templates")
    @classmethod
    def _placed(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        lacking = [template for template in templates if "{}" not in template]
        if lacking:
            raise ValueError(f"must have '{{}}' where the class stands; found {lacking[0]!r}")
        return templates


class TaskConfig(BaseModel):
    """One task: its samples, and how they are read.

    Samples are in files, JSON Lines, CSV or TSV by the name's end (the first line of a CSV or TSV file names the
    columns); or images in a folder that has one for each class, whose name has no end; or in the splits of `dataset`.
    Paths are relative to the configuration file, those of images to the file that names them.

    Attributes:
        dataset: where the parts are splits: the name of a data set, or a mapping (`DatasetConfig`).
        train: labelled data that experts were fine-tuned on; a file, a folder or a split, or a list of them. Splits are
            those of `datasets`: `train[:5000]`, `train[-10%:]`.
        validation: labelled data to choose settings by.
        unlabeled: data to adapt on, read without labels. Where it is missing, the inputs of `adapt_on` are taken.
        test: labelled data to report accuracy on.
        adapt_on: part whose inputs stand in for `unlabeled`; by default those of `train`, else of `validation`. Test
            inputs are taken where this says `test` (the published, transductive setting), and never otherwise.
        text: column of the text, or two columns for pairs of texts; `text` where no column of images is named.
        image: column of the path of an image, or of an image in a data set, instead of `text`.
        label: column of the label: the label's number, or its name.
        labels: names of the labels in the order of the head's outputs. By default the expert's own (`id2label` of a
            classifier), else what the data say (the sorted folders of classes, the features of a data set), else the
            sorted distinct values of the labelled parts.
        head: folder of a headed model, or of a checkpoint with `heads.safetensors`, or such a file; by default the
            expert's own head.
        zero_shot: makes a head of the names of the classes instead (`ZeroShotConfig`); `{}` where all is by default.
        pooling: what a linear head reads: the mean over the tokens, the first token (`cls`), or the output of the
            model's pooler. By default `mean` for texts and `pooler` for images.
        max_length: number of tokens that texts are cut to; by default as many as the tokenizer says the model takes,
            but no more than 512.
        batch_size: of scoring.
        samples: how many of each part are taken at most, a number or one by part: drawn at random, the same ones each
            time, since files are often sorted by label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetConfig | None = None
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
    zero_shot: ZeroShotConfig | None = None
    pooling: Pooling | None = None
    max_length: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    samples: dict[Part, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    @field_validator("dataset", mode="before")
    @classmethod
    def _name_dataset(cls, found: Any) -> Any:
        return {"name": found} if isinstance(found, str) else found

    @field_validator("samples", mode="before")
    @classmethod
    def _of_each_part(cls, found: Any) -> Any:
        return dict.fromkeys(PARTS, found) if isinstance(found, int) and not isinstance(found, bool) else found

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        given = self._given()
        if not given:
            raise ValueError(f"a task must name data for at least one of {', '.join(PARTS)}; found none")
        if self.dataset is None:
            for part, file in ((part, file) for part, files in given.items() for file in files):
                if file.suffix.lower() not in ("", *SUFFIXES):
                    raise ValueError(
                        f"{part} must end in one of {', '.join(SUFFIXES)}, or be a folder of images, whose name has no "
                        f"end; found {str(file)!r}"
                    )
        if self.text is not None and self.image_column is not None:
            raise ValueError(f"a task must have either text or image{'s' * (self.image is None)}; found both")
        if self.adapt_on is not None and self.adapt_on not in given:
            raise ValueError(f"adapt_on must name a part that the task has, {list(given)}; found {self.adapt_on!r}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct; found {list(self.labels)}")
        if self.zero_shot is not None:
            self._check_zero_shot()
        return self

    def _check_zero_shot(self) -> None:
        if self.head is not None:
            raise ValueError("a task must have either head or zero_shot; found both")
        if self.image_column is None:
            raise ValueError("zero_shot is of images; name their column as image")
        if self.pooling not in (None, "pooler"):
            raise ValueError(f"pooling must be 'pooler' with zero_shot, which reads it; found {self.pooling!r}")

    @property
    def has_head(self) -> bool:
        """Whether a head is named, or made of names."""
        return self.head is not None or self.zero_shot is not None

    def _given(self) -> dict[Part, tuple[Path, ...]]:
        parts: dict[Part, tuple[Path, ...] | None] = {part: getattr(self, part) for part in PARTS}
        return {part: files for part, files in parts.items() if files is not None}

    @property
    def image_column(self) -> str | None:
        """Column of the images; None where samples are texts."""
        if self.image is not None or self.dataset is not None:
            return self.image
        return "image" if any(not file.suffix for files in self._given().values() for file in files) else None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the inputs: one of a text or an image, two of a pair of texts."""
        if self.image_column is not None:
            return (self.image_column,)
        text = self.text or "text"
        return (text,) if isinstance(text, str) else text

    @property
    def adapts_on(self) -> Part | None:
        """The part whose inputs a model is adapted on; None where there is none that may be taken."""
        if self.adapt_on is not None:
            return self.adapt_on
        parts: tuple[Part, ...] = ("unlabeled", "train", "validation")
        return next((part for part in parts if getattr(self, part) is not None), None)
