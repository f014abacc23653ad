"""What must hold between the keys of a configuration file, beyond what each section says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from wemoe.config_sections import lines_of, nearest
from wemoe.method_parameters import Linear, PreferenceRouted, Routed

if TYPE_CHECKING:
    from wemoe.merge_config import FrontConfig, MergeConfig, ModelEntry

LABELLED = {"train": "learns from it", "validation": "measures losses on it", "test": "measures accuracy on it"}


def task_names(models: Sequence[ModelEntry]) -> list[str]:
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


def problems_of(config: MergeConfig) -> Iterator[str]:
    """Yield what is wrong between the keys of a configuration whose sections are right, each with its path."""
    if config.suite is not None:
        given = [key for key in ("base_model", "models", "tasks") if getattr(config, key)]
        yield from (f"{key}: the suite {config.suite.name!r} has its own; leave it out" for key in given)
    else:
        yield from _model_problems(config)
    if config.merge_method is not None:
        yield from _method_problems(config)


def _model_problems(config: MergeConfig) -> Iterator[str]:
    needs_base = config.merge_method is None or type(config.parameters).needs_base
    if config.base_model is None and needs_base:
        yield "base_model: must be given; it is what the models were fine-tuned from"
    names = task_names(config.models)
    for name, count in Counter(entry.task for entry in config.models).items():
        if name is not None and count > 1:
            yield f"models: the task {name!r} must be of one model; found {count}"
    if not config.experts:
        yield "models: must list at least one fine-tuned model; found none"
    for task in config.tasks:
        if task not in config.experts:
            yield f"tasks.{task}: no model is for this task{nearest(task, names)}"


def _method_problems(config: MergeConfig) -> Iterator[str]:
    if isinstance(config.parameters, Routed | PreferenceRouted) and config.out_dtype is not None:
        yield "out_dtype: a routed model is written as it was adapted; give dtype"
    if type(config.parameters).reads_data:
        if config.suite is None:
            missing = [task for task in config.experts if task not in config.tasks]
            if not config.tasks:
                yield f"tasks: must be given (or suite); {config.merge_method} reads data of every task"
            elif missing:
                yield f"tasks: {config.merge_method} reads data of every task; found none of {', '.join(missing)}"
        yield from _answer_problems(config)
    elif config.merge_method != "average":
        yield from _weight_problems(config)
    if type(config.parameters).has_front:
        yield from _front_problems(cast("FrontConfig", config))
    else:
        yield from _sweep_problems(config)


def _answer_problems(config: MergeConfig) -> Iterator[str]:
    """Only one objective asks experts for the answers that options change, and one of these reads training data."""
    if not isinstance(config.parameters, Routed):
        return
    given = config.parameters.model_dump(include={"class_shares", "anchor"}, exclude_none=True)
    options = [option for option in ("class_shares", "anchor") if option in given or option in config.sweep]
    if config.parameters.objective != "match":
        for option in options:
            yield f"parameters.{option}: is of the objective match; found {config.parameters.objective}"
    if "class_shares" in options:
        for task, found in config.tasks.items():
            if found.train is None:
                yield f"tasks.{task}.train: must be given; class_shares counts its classes"


def _front_problems(config: FrontConfig) -> Iterator[str]:
    """A front is trained and measured on labels, and nothing of it is chosen."""
    if config.sweep:
        yield f"sweep: must be left out; {config.merge_method} makes a model for every preference"
    key, tasks = ("models", list(config.experts)) if config.suite is None else ("suite.tasks", config.suite.chosen)
    if len(tasks) == 1:
        yield f"{key}: must be of two tasks or more, for a preference between them; found one"
    trains = config.parameters.train_on == "train" or bool(config.pareto.fine_tuned)
    needed = [part for part in LABELLED if part != "train" or trains]
    for task, found in config.tasks.items():
        for part in needed:
            if getattr(found, part) is None:
                yield f"tasks.{task}.{part}: must be given; {config.merge_method} {LABELLED[part]}"
    if len(tasks) > 2 and "grid" in config.pareto.baselines:
        yield f"pareto.baselines: grid is of two tasks; of {len(tasks)} it has too many models"


def _weight_problems(config: MergeConfig) -> Iterator[str]:
    """A file in the language of mergekit has no weight by default."""
    if config.suite is not None and getattr(config.parameters, "weight", None) is None:
        yield "parameters.weight: must be given; it is of every model"
    weights = config.of_models("weight", config.averaged)
    for index, (task, entry) in enumerate(config.named_models()):
        skipped = entry.model == config.base_model and type(config.parameters).needs_base
        if weights[task] is None and not skipped:
            yield f"models[{index}].parameters.weight: must be given, here or for all models in `parameters`"


def _sweep_problems(config: MergeConfig) -> Iterator[str]:
    fields = {field.alias or name for name, field in type(config.parameters).model_fields.items()}
    for name, values in config.sweep.items():
        if name not in fields:
            yield f"sweep.{name}: {config.merge_method} has no such parameter{nearest(name, fields)}"
            continue
        for index, entry in enumerate(config.models):
            if name in entry.parameters.model_fields_set:
                yield f"sweep.{name}: must be of all models; models[{index}].parameters.{name} is of one"
        for index, value in enumerate(values):
            try:
                type(config.parameters).model_validate({name: value})
            except ValidationError as error:
                (line,) = lines_of(error, type(config.parameters))
                yield f"sweep.{name}[{index}]{line.removeprefix(name)}"
    if config.sweep and config.suite is None:
        if isinstance(config.parameters, Linear) and config.base_model in config.averaged.values():
            yield "sweep: a base that is averaged has no data to choose on; leave it out of models"
        missing = [task for task in config.experts if task not in config.tasks or not config.tasks[task].validation]
        yield from (f"tasks.{task}.validation: must be given; sweep chooses on it" for task in missing)
