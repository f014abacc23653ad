"""What a suite is made of, from a configuration: the models, the heads that read them, and the tasks' data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from wemoe.data.batches import Task
from wemoe.data.parts import find_parts, names_in_rows, own_names
from wemoe.data.readers import TextReader, load_reader
from wemoe.data.task_files import load_task
from wemoe.heads import HEADS_FILE, Head, PooledHead, TaskHead, read_heads, task_head
from wemoe.model_folders import backbone_of, load_base, load_model
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import SuiteConfig
from wemoe.task_config import Part, TaskConfig, ZeroShotConfig
from wemoe.text_towers import TextTowers
from wemoe.zero_shot import ZeroShotHead


class SuiteSource(Protocol):
    """What a configuration says of a suite: a built-in one, or models and tasks of one's own."""

    @property
    def suite(self) -> SuiteConfig | None:
        """The built-in one."""

    @property
    def base_model(self) -> str | None:
        """Folder or repository of the base."""

    @property
    def experts(self) -> Mapping[str, str]:
        """By task, folder or repository of the expert."""

    @property
    def tasks(self) -> Mapping[str, TaskConfig]:
        """By name, what is said of each task."""

    @property
    def dtype(self) -> str | None:
        """Dtype of all weights; as they were saved by default."""

    @property
    def seed(self) -> int:
        """Seed of the experts of a built-in suite."""


@dataclass(frozen=True)
class Models:
    """Backbones, and the heads that the experts have of their own."""

    base: PreTrainedModel
    experts: dict[str, PreTrainedModel]
    heads: dict[str, TaskHead]


def load_models(source: SuiteSource, watch: Stopwatch) -> Models:
    """Load the base and the experts of a configuration, and take them apart into backbones and heads.

    Raises:
        OSError: there is no such model.
        ValueError: there is no base or no expert, or a model lacks tensors of its class.
    """
    if source.base_model is None:
        raise ValueError("base_model must be given; it is what the models were fine-tuned from")
    if not source.experts:
        raise ValueError("models must list at least one fine-tuned model; found none")
    dtype = chosen_dtype(source)
    experts: dict[str, PreTrainedModel] = {}
    heads: dict[str, TaskHead] = {}
    base: PreTrainedModel | None = None
    for task, name in source.experts.items():
        with watch.stage(f"load expert: {task}"):
            expert = load_model(name, _label(task), dtype, source.base_model)
        if base is None:
            with watch.stage("load base"):
                base = load_base(source.base_model, expert, dtype)
        path, backbone = backbone_of(expert)
        if path is not None:
            heads[task] = task_head(expert, backbone, _label(task))
        experts[task] = backbone
    return Models(cast("PreTrainedModel", base), experts, heads)


def own_heads(source: SuiteSource, tasks: Collection[str], watch: Stopwatch) -> dict[str, Head]:
    """Load the heads that experts have of their own; one expert is in memory at a time.

    Raises:
        OSError: there is no such model.
        ValueError: a model lacks tensors of its class.
    """
    heads: dict[str, Head] = {}
    for task in tasks:
        if task in source.experts:
            with watch.stage(f"load head: {task}"):
                expert = load_model(source.experts[task], _label(task), chosen_dtype(source), source.base_model)
            path, backbone = backbone_of(expert)
            if path is not None:
                heads[task] = task_head(expert, backbone, _label(task))
    return heads


def chosen_dtype(source: SuiteSource) -> torch.dtype | None:
    """Return the dtype that a configuration names."""
    return None if source.dtype is None else getattr(torch, source.dtype)


def load_tasks(
    configs: Mapping[str, TaskConfig],
    backbone: PreTrainedModel,
    own_heads: Mapping[str, Head],
    processor: str,
    parts: Collection[Part],
    watch: Stopwatch,
) -> tuple[dict[str, Task], dict[str, Head]]:
    """Load the tasks' data and the heads that read a backbone for them.

    Args:
        configs: what the configuration says of each task.
        backbone: of the class that is read.
        own_heads: by task, what reads it where its configuration names no head.
        processor: folder or repository of the tokenizer or image processor.
        parts: of the data, which are loaded.
        watch: tells of each task.

    Returns:
        The tasks, and the heads, those of tasks without data included.

    Raises:
        OSError: a file is missing.
        ValueError: a task has no head, or its data are not what they must be.
    """
    tasks: dict[str, Task] = {}
    heads = dict(own_heads)
    towers = TextTowers()
    for name, config in configs.items():
        with watch.stage(f"load task: {name}"):
            if config.zero_shot is not None:
                tasks[name], heads[name] = _zero_shot_task(
                    name, config, config.zero_shot, backbone, processor, parts, towers
                )
                continue
            if config.head is not None:
                heads[name] = _head_from(config.head, name, backbone)
            if name not in heads:
                raise ValueError(
                    f"tasks.{name}.head must name a head (or zero_shot make one): no model that was given has one for "
                    "this task"
                )
            tasks[name], heads[name] = _load_task(name, config, heads[name], backbone, processor, parts)
    return tasks, heads


def _load_task(
    name: str, config: TaskConfig, head: Head, backbone: PreTrainedModel, processor: str, parts: Collection[Part]
) -> tuple[Task, Head]:
    """Load a task, and tell its head what pads texts, where the head does not know."""
    if isinstance(head, PooledHead):
        reader = load_reader(processor, config, backbone.config, None)
        return load_task(name, config, reader, head.out_features, (), parts), head
    settings = head_config(head)
    pad_token_id = getattr(settings, "pad_token_id", None)
    reader = load_reader(processor, config, backbone.config, pad_token_id)
    names = label_names(settings)
    if pad_token_id is None and isinstance(reader, TextReader):
        head = replace(head, config=head.config | {"pad_token_id": reader.pad_token_id})
    return load_task(name, config, reader, len(names), names, parts), head


def _zero_shot_task(
    name: str,
    config: TaskConfig,
    zero_shot: ZeroShotConfig,
    backbone: PreTrainedModel,
    processor: str,
    parts: Collection[Part],
    towers: TextTowers,
) -> tuple[Task, ZeroShotHead]:
    """Load a task, and make its head of the names of its classes."""
    told = zero_shot.classes or config.labels
    found = find_parts(name, config, parts, knows_labels=told is not None)
    names = told or own_names(found) or names_in_rows(found, config.label)
    if not names:
        raise ValueError(f"tasks.{name}.zero_shot.classes must name the classes; the labels of the data are numbers")
    classes = zero_shot.classes or [each.replace("_", " ") for each in names]
    key = f"tasks.{name}.zero_shot.model"
    head = towers.head(zero_shot.model or processor, key, classes, zero_shot.templates)
    if head.in_features != getattr(backbone.config, "hidden_size", head.in_features):
        raise ValueError(
            f"{key} must read what the models give, {backbone.config.hidden_size} numbers; found {head.in_features}"
        )
    reader = load_reader(processor, config, backbone.config, None)
    return load_task(name, config, reader, head.out_features, names, parts, found), head


def head_config(head: TaskHead) -> PreTrainedConfig:
    """Return the configuration of a headed model of which the head was kept.

    Raises:
        ValueError: transformers has no such class.
    """
    kind = getattr(transformers, head.model_class, None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(f"a head must be of a model class of transformers; found {head.model_class!r}")
    return cast("type[PreTrainedConfig]", kind.config_class).from_dict(head.config)


def _label(task: str) -> str:
    return f"the model of task {task!r}"


def label_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of the labels of a headed model, in the order of its outputs."""
    by_number = cast("dict[int, str]", config.id2label)
    return [by_number[number] for number in sorted(by_number)]


def _head_from(path: Path, task: str, backbone: PreTrainedModel) -> Head:
    """Read a head from a file of heads, a folder that has one, or the folder of a headed model."""
    file = path / HEADS_FILE if path.is_dir() else path
    if file.is_file():
        heads = read_heads(file)
        if task in heads:
            return heads[task]
        if len(heads) == 1:
            return next(iter(heads.values()))
        raise ValueError(f"tasks.{task}.head must hold a head of this task; {str(file)!r} has those of {list(heads)}")
    if not path.is_dir():
        raise FileNotFoundError(f"tasks.{task}.head must be a folder or a file of heads; found none at {str(path)!r}")
    label = f"tasks.{task}.head"
    return task_head(load_model(str(path), label), backbone, label)
