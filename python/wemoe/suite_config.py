"""What a configuration file says of the built-in suites; nothing here reads data or imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from wemoe.config_sections import FilePath, Section
from wemoe.data.text6 import TASKS as TEXT_TASKS
from wemoe.data.vision8 import TASKS as IMAGE_TASKS

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class FineTuning:
    """How experts are fine-tuned: AdamW with linear warm-up over a tenth of the steps and linear decay to 0."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epochs: _Count = 2
    learning_rate: _Positive = 2e-4
    batch_size: _Count = 16
    weight_decay: _Share = 0.01
    max_gradient_norm: _Positive = 1.0
    shift: Annotated[int, Field(ge=0)] = 0
    """Pixels that an image is moved by at most."""
    trained: str = "encoder."
    """Prefix of the names of the parameters that are trained: here all layers, but not the embeddings."""


@dataclass(frozen=True)
class Pretraining:
    """How the base of `vision8` is trained, on all tasks at once: AdamW, warm-up and decay as in `FineTuning`.

    Attributes:
        seed: of its first weights, and of the order of images.
        steps: of training.
        per_task: images of each task in a batch.
        shift: pixels that an image is moved by at most.
        width: of the hidden states; a head of attention has 64 of it.
        layers: of the model.
        patch_size: pixels along the side of a patch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    steps: _Count = 1600
    per_task: _Count = 12
    learning_rate: _Positive = 1e-3
    weight_decay: _Share = 0.05
    max_gradient_norm: _Positive = 1.0
    shift: Annotated[int, Field(ge=0)] = 2
    width: Annotated[int, Field(ge=1)] = 192
    layers: _Count = 6
    patch_size: Annotated[int, Field(ge=1, le=32)] = 8


class SuiteConfig(Section):
    """What the built-in suites have in common.

    Attributes:
        name: of the suite.
        tasks: which of its tasks, in this order; all by default.
        fine_tuning: how its experts are made.
    """

    known: ClassVar[tuple[str, ...]] = ()

    name: str
    fine_tuning: FineTuning
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The tasks, in their order."""
        return self.tasks or self.known

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            if task not in cls.known:
                raise ValueError(f"must be among the suite's, {', '.join(cls.known)}; found {task!r}")
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"must be distinct; found {', '.join(tasks)}")
        return tasks


class TextSuite(SuiteConfig):
    """Six text tasks on MiniLM, with experts that are fine-tuned once and cached.

    Attributes:
        max_length: number of tokens that texts are cut to.
    """

    known = TEXT_TASKS

    name: Literal["text6"] = "text6"
    max_length: int = Field(default=40, ge=2)
    fine_tuning: FineTuning = FineTuning()

    @field_validator("fine_tuning")
    @classmethod
    def _check_shift(cls, how: FineTuning) -> FineTuning:
        if how.shift:
            raise ValueError(f"shift must be 0: texts are not moved by pixels; found {how.shift}")
        return how


class VisionSuite(SuiteConfig):
    """Eight image tasks on a small CLIP vision model, which is trained once, like its experts, and cached.

    Attributes:
        pack: file of the images (`wemoe.data.vision8.save_pack`); by default that of the cache, which is fetched at
            first use.
        pretraining: how the base is made.
    """

    known = IMAGE_TASKS

    name: Literal["vision8"] = "vision8"
    pack: FilePath | None = None
    pretraining: Pretraining = Pretraining()
    fine_tuning: FineTuning = FineTuning(epochs=16, learning_rate=4e-4, batch_size=64, weight_decay=0.05, shift=2)


SUITES: Mapping[str, type[SuiteConfig]] = {"text6": TextSuite, "vision8": VisionSuite}
