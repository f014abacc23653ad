"""The configuration file of a merge: mergekit's language for whole models, with tasks, suites and our own methods.

    base_model: models/base
    models:
      - model: models/movies
        parameters: {weight: 1.0, density: 0.5}
      - model: models/icd
        parameters: {weight: 0.7}
    merge_method: ties
    parameters: {lambda: 1.0}

It is checked once, when it is read; what is passed on is typed and frozen. torch is not imported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from wemoe.config_sections import Count, ModelSource, Number, Scalar, Section, lines_of, nearest, problems
from wemoe.method_parameters import PARAMETERS, ModelParameters, Parameters
from wemoe.task_config import SuiteConfig, TaskConfig
from wemoe.yaml_files import read_yaml

ALIASES = {"average": "linear"}  # our function's name, and mergekit's
SUPPORTED = f"supported are {', '.join(PARAMETERS)}"
MERGEKIT_METHODS = (
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "karcher", "model_stock", "multislerp",
    "nearswap", "nuslerp", "passthrough", "ram", "ramplus_tl", "sce", "slerp",
)  # fmt: skip

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda name: name.removeprefix("torch.") if isinstance(name, str) else name),
    Scalar,
]
Values = bool | int | float | str | tuple[Number, ...] | None


class ModelEntry(Section):
    """One model of the list.

    Attributes:
        model: a folder, a repository of the Hub, or `model+adapter`.
        task: name of what it was fine-tuned for; by default the last part of `model`, numbered if it is not unique.
        parameters: of this model alone.
    """

    model: ModelSource
    task: Annotated[str, Field(min_length=1, pattern="^[^/]*$")] | None = None
    parameters: ModelParameters = ModelParameters()


class MergeConfig(Section):
    """What a configuration file says; `parameters` are of the class that belongs to the method.

    Attributes:
        merge_method: what merges; None in a file that only evaluates or compares.
        base_model: the pre-trained model.
        models: the fine-tuned models; the base may be among them.
        parameters: of the method, for all models.
        dtype: of the merged model; by default the base's. Sums are taken in fp32 or better, whatever it is.
        out_dtype: the same, and goes before `dtype`.
        tokenizer_source: `base`, which is what is done.
        seed: of everything random.
        sweep: by parameter of the method, values to choose from on validation data.
        tasks: by task, its data and how it reads a model.
        suite: a built-in suite instead of `base_model`, `models` and `tasks`.
        methods: rows of a comparison, with their parameters.
        steps: of adaptation, where a method's `parameters` have no `steps`.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "slices": "layers are not rearranged here; list whole models under `models`",
        "modules": "parts of a model are not merged apart; list whole models under `models`",
        "tokenizer": "vocabularies are not merged; the base's tokenizer is kept, as `tokenizer_source: base` says",
        "chat_template": "is not set here; the tokenizer files of the base are kept as they are",
    }

    merge_method: Annotated[str, Scalar] | None = None
    base_model: ModelSource | None = None
    models: tuple[ModelEntry, ...] = ()
    parameters: Parameters = Parameters()
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Annotated[Literal["base"], Scalar] | None = None
    seed: Annotated[int, Field(ge=0), Scalar] = 0
    sweep: dict[str, Annotated[tuple[Number, ...], Field(min_length=1)]] = Field(default_factory=dict)
    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    suite: SuiteConfig | None = None
    methods: dict[str, dict[str, Values]] | None = None
    steps: Count | None = None

    @property
    def experts(self) -> dict[str, str]:
        """By task, where the fine-tuned model is: of all models, those that are not the base."""
        return {task: entry.model for task, entry in self._named() if entry.model != self.base_model}

    @property
    def averaged(self) -> dict[str, str]:
        """By name, where every model of the list is, the base included."""
        return {task: entry.model for task, entry in self._named()}

    def of_models(self, name: str) -> dict[str, Any]:
        """Return a parameter of every model by its name: its own, or that of all models."""
        shared = getattr(self.parameters, name)
        own = {task: getattr(entry.parameters, name) for task, entry in self._named()}
        return {task: shared if value is None else value for task, value in own.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was given and changes nothing, one sentence each."""
        ignored = type(self.parameters).without_effect - {"int8_mask"}
        given = [(f"parameters.{key}", key) for key in sorted(self.parameters.model_fields_set)]
        for index, entry in enumerate(self.models):
            given += [(f"models[{index}].parameters.{key}", key) for key in sorted(entry.parameters.model_fields_set)]
        return tuple(
            f"{path.rstrip('_')}: has no effect on {self.merge_method}"
            for path, key in given
            if key.rstrip("_") in ignored
        )

    @field_validator("methods", mode="before")
    @classmethod
    def _name_rows(cls, found: Any) -> Any:
        """Take a list of names as rows without parameters, and a row without a value too."""
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return {name: {} for name in found}
        return {key: value or {} for key, value in found.items()} if isinstance(found, dict) else found

    @field_validator("tasks")
    @classmethod
    def _resolve_files(cls, tasks: dict[str, TaskConfig], info: ValidationInfo) -> dict[str, TaskConfig]:
        folder = Path((info.context or {}).get("folder", ""))
        return {name: _resolved(task, folder) for name, task in tasks.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = list(self._problems())
        if found:
            raise problems(found)
        return self

    def _named(self) -> Iterator[tuple[str, ModelEntry]]:
        return zip(task_names(self.models), self.models, strict=True)

    def _problems(self) -> Iterator[str]:
        if self.suite is not None:
            given = [key for key in ("base_model", "models", "tasks") if getattr(self, key)]
            yield from (f"{key}: the suite {self.suite.name!r} has its own; leave it out" for key in given)
        else:
            yield from self._model_problems()
        if self.merge_method is not None:
            yield from self._method_problems()

    def _model_problems(self) -> Iterator[str]:
        needs_base = self.merge_method is None or type(self.parameters).needs_base
        if self.base_model is None and needs_base:
            yield "base_model: must be given; it is what the models were fine-tuned from"
        names = task_names(self.models)
        for name, count in Counter(entry.task for entry in self.models).items():
            if name is not None and count > 1:
                yield f"models: the task {name!r} must be of one model; found {count}"
        if not self.experts:
            yield "models: must list at least one fine-tuned model; found none"
        for task in self.tasks:
            if task not in self.experts:
                yield f"tasks.{task}: no model is for this task{nearest(task, names)}"

    def _method_problems(self) -> Iterator[str]:
        if type(self.parameters).reads_data:
            if self.suite is None:
                missing = [task for task in self.experts if task not in self.tasks]
                if not self.tasks:
                    yield f"tasks: must be given (or suite); {self.merge_method} reads data of every task"
                elif missing:
                    yield f"tasks: {self.merge_method} reads data of every task; found none of {', '.join(missing)}"
        elif self.merge_method != "average":
            yield from self._weight_problems()
        yield from self._sweep_problems()

    def _weight_problems(self) -> Iterator[str]:
        """A file in the language of mergekit has no weight by default."""
        if self.suite is not None and getattr(self.parameters, "weight", None) is None:
            yield "parameters.weight: must be given; it is of every model"
        weights = self.of_models("weight")
        for index, (task, entry) in enumerate(self._named()):
            skipped = entry.model == self.base_model and type(self.parameters).needs_base
            if weights[task] is None and not skipped:
                yield f"models[{index}].parameters.weight: must be given, here or for all models in `parameters`"

    def _sweep_problems(self) -> Iterator[str]:
        fields = {field.alias or name for name, field in type(self.parameters).model_fields.items()}
        for name, values in self.sweep.items():
            if name not in fields:
                yield f"sweep.{name}: {self.merge_method} has no such parameter{nearest(name, fields)}"
                continue
            for index, value in enumerate(values):
                try:
                    type(self.parameters).model_validate({name: value})
                except ValidationError as error:
                    (line,) = lines_of(error, type(self.parameters))
                    yield f"sweep.{name}[{index}]{line.removeprefix(name)}"
        if self.sweep and not self.tasks and self.suite is None:
            yield "sweep: must have validation data to choose on; give tasks or suite"


def task_names(models: tuple[ModelEntry, ...]) -> list[str]:
    """Name every model by its task, or else by the last part of its path, numbered where names would be equal."""
    taken = {entry.task for entry in models if entry.task is not None}
    names: list[str] = []
    for entry in models:
        name = stem = entry.task or Path(entry.model.rpartition("+")[2]).name or "model"
        number = 1
        while entry.task is None and name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def read_config(path: str | os.PathLike[str]) -> MergeConfig:
    """Read and check a configuration file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML (the message names line and column), or something in it is wrong; one line for each
            problem, which names its key.
    """
    return parse_config(read_yaml(path), Path(path).parent)


def parse_config(content: Mapping[str, Any], folder: str | os.PathLike[str] = "") -> MergeConfig:
    """Check a configuration that was read already.

    Args:
        content: what the file holds.
        folder: what relative paths are relative to; the current one by default.

    Raises:
        ValueError: as in `read_config`.
    """
    kind = config_class(content.get("merge_method"))
    try:
        return kind.model_validate(dict(content), context={"folder": folder})
    except ValidationError as error:
        raise ValueError("\n".join(lines_of(error, kind))) from error


def config_class(method: object) -> type[MergeConfig]:
    """Return the class of the configurations of a method, of which `models` and `parameters` have the method's types.

    Raises:
        ValueError: the method is unknown.
    """
    if method is None:
        return MergeConfig
    name = ALIASES.get(method, method) if isinstance(method, str) else method
    if not isinstance(name, str) or name not in PARAMETERS:
        if name in MERGEKIT_METHODS:
            raise ValueError(f"merge_method: mergekit's {name!r} is not supported; {SUPPORTED}")
        raise ValueError(f"merge_method: must be a known method; found {method!r}{nearest(str(method), PARAMETERS)}")
    return _class_of(name)


@cache
def _class_of(method: str) -> type[MergeConfig]:
    shared = PARAMETERS[method]
    entry = create_model("ModelEntry", __base__=ModelEntry, parameters=(shared.per_model, shared.per_model()))
    models: Any = tuple[entry, ...]  # type: ignore[valid-type]  # a class made one line above
    return create_model("MergeConfig", __base__=MergeConfig, models=(models, ()), parameters=(shared, shared()))


def _resolved(task: TaskConfig, folder: Path) -> TaskConfig:
    """Return a task whose paths are taken relative to a folder."""

    def resolve(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(resolve, value))
        return folder / value.expanduser() if isinstance(value, Path) else value

    return task.model_copy(update={name: resolve(getattr(task, name)) for name in task.model_fields_set})
