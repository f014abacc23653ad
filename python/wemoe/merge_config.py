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
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, Union

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from wemoe.config_checks import problems_of, task_names
from wemoe.config_sections import Count, ModelSource, Number, Scalar, Section, lines_of, nearest, problems
from wemoe.method_parameters import PARAMETERS, ModelParameters, Parameters, PreferenceRouted
from wemoe.suite_config import SUITES, TextSuite, VisionSuite
from wemoe.task_config import TaskConfig
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
Baseline = Annotated[Literal["static", "grid", "ls", "epo", "mgda"], Scalar]
FineTuned = Literal["ls", "epo", "mgda"]
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


class FullFineTuning(Section):
    """How the whole base is fine-tuned on all tasks at once, as a baseline; as published."""

    steps: Count = 8000
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-5
    batch_size: Count = 16


class ParetoConfig(Section):
    """How the front of a model that is steered by a preference is measured.

    Attributes:
        points: of the grid of preferences, along an edge from one task to another; by default 11 for two and three
            tasks, and 2, the tasks themselves, for more. Equal preference is always measured too.
        samples: at most so many of a task's validation data, and of its test data, are read; by default all.
        baselines: what is measured beside it: `static`, task arithmetic weighted by the preference; `grid`, task
            arithmetic with every combination of coefficients (two tasks); `ls`, `epo` and `mgda`, one fine-tuning of
            the whole base on all tasks by each (`mgda` needs TorchJD). The experts and the base are always measured.
        fine_tuning: of the last three.
    """

    points: Annotated[Count, Field(ge=2)] | None = None
    samples: Count | None = None
    baselines: tuple[Baseline, ...] = ("static",)
    fine_tuning: FullFineTuning = FullFineTuning()

    @property
    def fine_tuned(self) -> tuple[FineTuned, ...]:
        """The baselines that fine-tune the whole base, in their order."""
        return tuple(name for name in self.baselines if name in ("ls", "epo", "mgda"))

    def points_for(self, tasks: int) -> int:
        """Return the points along an edge of the grid, for a number of tasks."""
        return self.points or (11 if tasks <= 3 else 2)


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
        steps: of adaptation or training, where a method's `parameters` have no `steps`.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "slices": "layers are not rearranged here; list whole models under `models`",
        "modules": "parts of a model are not merged apart; list whole models under `models`",
        "tokenizer": "vocabularies are not merged; the base's tokenizer is kept, as `tokenizer_source: base` says",
        "pareto": "is of methods that make a front, pwemoe; leave it out",
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
    suite: TextSuite | VisionSuite | None = None
    methods: dict[str, dict[str, Values]] | None = None
    steps: Count | None = None

    @property
    def experts(self) -> dict[str, str]:
        """By task, where the fine-tuned model is: of all models, those that are not the base."""
        return {task: entry.model for task, entry in self.named_models() if entry.model != self.base_model}

    @property
    def averaged(self) -> dict[str, str]:
        """By name, where every model of the list is, the base included."""
        return {task: entry.model for task, entry in self.named_models()}

    def of_models(self, name: str, models: Iterable[str]) -> dict[str, Any]:
        """Return a parameter of some models, by their names: each one's own, or that of all models."""
        shared = getattr(self.parameters, name)
        own = {task: getattr(entry.parameters, name) for task, entry in self.named_models()}
        return {model: shared if own.get(model) is None else own[model] for model in models}

    @property
    def adaptation_steps(self) -> int:
        """Steps of adaptation or training of a method that has some: its own, or those for all methods."""
        own: int = self.parameters.steps  # type: ignore[attr-defined]  # of methods that adapt
        return own if self.steps is None or "steps" in self.parameters.model_fields_set else self.steps

    def at(self, point: Mapping[str, float]) -> MergeConfig:
        """Return this configuration with other parameters of the method, and nothing left to sweep."""
        kind = type(self.parameters)
        given = self.parameters.model_dump(by_alias=True, exclude_unset=True)
        return self.model_copy(update={"parameters": kind.model_validate({**given, **point}), "sweep": {}})

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

    def recipe(self) -> dict[str, Any]:
        """Return the configuration as its file would say it, every parameter with the value that it has."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if "steps" in written.get("parameters", {}):
            written["parameters"]["steps"] = self.adaptation_steps
        return {key: value for key, value in written.items() if value not in ({}, [])}

    @field_validator("suite", mode="before")
    @classmethod
    def _name_suite(cls, found: Any, info: ValidationInfo) -> Any:
        """Take a name as a suite with its own settings, and check a described one by the class of its name."""
        described = {"name": found} if isinstance(found, str) else found
        if not isinstance(described, dict):
            return described
        name = described.get("name")
        if not isinstance(name, str) or name not in SUITES:
            raise problems([f"suite.name: must be one of {', '.join(SUITES)}; found {name!r}"])
        try:
            return SUITES[name].model_validate(described, context=info.context)
        except ValidationError as error:
            raise problems(f"suite.{line}" for line in lines_of(error, SUITES[name])) from error

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
        found = list(problems_of(self))
        if found:
            raise problems(found)
        return self

    def named_models(self) -> Iterator[tuple[str, ModelEntry]]:
        """Yield every model of the list with its name."""
        return zip(task_names(self.models), self.models, strict=True)


class FrontConfig(MergeConfig):
    """What a configuration file says for a method that makes a front.

    Attributes:
        pareto: how the front is measured.
    """

    parameters: PreferenceRouted = PreferenceRouted()
    pareto: ParetoConfig = ParetoConfig()


def read_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None, *, to_merge: bool = False
) -> MergeConfig:
    """Read and check a configuration file.

    Args:
        path: of a YAML file; paths in it are relative to its folder.
        overrides: by key, what is put in the place of what the file says; where both are mappings, key by key.
        to_merge: whether it must name a method.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML (the message names line and column), or something in it is wrong; one line for each
            problem, which names its key.
    """
    content = _overridden(read_yaml(path), overrides or {})
    return parse_config(content, Path(path).absolute().parent, to_merge=to_merge)


def parse_config(
    content: Mapping[str, Any], folder: str | os.PathLike[str] = "", *, to_merge: bool = False
) -> MergeConfig:
    """Check a configuration that was read already.

    Args:
        content: what the file holds.
        folder: what relative paths are relative to; the current one by default.
        to_merge: as in `read_config`.

    Raises:
        ValueError: as in `read_config`.
    """
    if to_merge:
        check_method_named(content.get("merge_method"))
    kind = config_class(content.get("merge_method"))
    try:
        return kind.model_validate(dict(content), context={"folder": folder})
    except ValidationError as error:
        raise ValueError("\n".join(lines_of(error, kind))) from error


def check_method_named(method: object) -> None:
    """Check that a method is given.

    Raises:
        ValueError: it is not.
    """
    if method is None:
        raise ValueError("merge_method: must be given, `ties` say; `wemoe methods` lists them")


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


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of configuration files, one alternative for each method."""
    kinds: Any = (MergeConfig, *(_class_of(method) for method in PARAMETERS))
    schema: dict[str, Any] = TypeAdapter(Union[kinds]).json_schema()  # noqa: UP007 - classes that are made at run time
    return schema


def _overridden(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(content)
    for key, value in overrides.items():
        found = changed.get(key)
        changed[key] = {**found, **value} if isinstance(found, dict) and isinstance(value, Mapping) else value
    return changed


@cache
def _class_of(method: str) -> type[MergeConfig]:
    shared = PARAMETERS[method]
    names: Any = Literal[tuple(name for name in (method, *ALIASES) if ALIASES.get(name, name) == method)]
    entry = create_model(
        f"ModelEntry_{shared.per_model.__name__}",
        __base__=ModelEntry,
        parameters=(shared.per_model, shared.per_model()),
    )
    models: Any = tuple[entry, ...]  # type: ignore[valid-type]  # a class made one line above
    return create_model(
        f"MergeConfig_{method}",
        __base__=FrontConfig if shared.has_front else MergeConfig,
        merge_method=(names, ...),
        models=(models, ()),
        parameters=(shared, shared()),
    )


def _resolved(task: TaskConfig, folder: Path) -> TaskConfig:
    """Return a task whose paths are taken relative to a folder."""

    def resolve(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(resolve, value))
        return folder / value.expanduser() if isinstance(value, Path) else value

    paths = task.model_fields_set if task.dataset is None else {"head"} & task.model_fields_set
    return task.model_copy(update={name: resolve(getattr(task, name)) for name in paths})
