"""Evaluating a saved model, routed or plain, on the tasks of a configuration or of a built-in suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from wemoe.built_in import load_tasks_of
from wemoe.checkpoints import read_json
from wemoe.data.batches import Task
from wemoe.heads import HEADS_FILE, Head, TaskHead, read_heads, task_head
from wemoe.loading import from_pretrained
from wemoe.model_folders import backbone_of, load_model
from wemoe.repositories import locate
from wemoe.saving import MODEL_TYPE
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import SuiteConfig
from wemoe.suite_loading import SuiteSource, chosen_dtype, load_tasks, own_heads
from wemoe.suites import Suite, load_suite
from wemoe.task_config import Part
from wemoe.towers import vision_tower

Heads = Mapping[str, Head]


@dataclass(frozen=True)
class Readable:
    """A loaded model, as tasks read it.

    Attributes:
        backbone: the model, or what is under its head.
        heads: by task, those in the model's folder.
        own: the head of a model that has one and no others beside it.
    """

    backbone: PreTrainedModel
    heads: Heads
    own: TaskHead | None


def evaluate_checkpoint(
    name: str,
    source: SuiteSource,
    *,
    tasks: Sequence[str] = (),
    part: Part = "test",
    device: str = "cpu",
    progress: bool = True,
    watch: Stopwatch | None = None,
) -> dict[str, Any]:
    """Score a saved model on the tasks of a configuration.

    A task is read through the head that its configuration names, else the model's own: the one of this task in its
    `heads.safetensors`, or the head that the model is built with. Only where there is neither, the expert of the task
    gives its head.

    Args:
        name: folder or repository of a routed checkpoint, or of a plain model with or without a head.
        source: the tasks, and what they were merged from; or a built-in suite.
        tasks: which of them; all by default.
        part: of the data; with labels.
        device: where to compute.
        progress: whether to show a progress bar for each task.
        watch: tells of what is loaded.

    Returns:
        `model`, `part`, by task the `accuracy` in [0, 1] and the number of `samples`, and the `average` accuracy over
        the tasks.

    Raises:
        OSError: a model or a file is missing.
        ValueError: a task is unknown, has no such part or no head, or a model or file is not what it must be.
    """
    watch = watch or Stopwatch(lambda _: None)
    _check(source, tasks, part)
    with watch.stage("load model"):
        model = load_readable(name, chosen_dtype(source), device)
    if any(config.image_column is not None for config in source.tasks.values()):
        model = replace(model, backbone=vision_tower(model.backbone))
    suite = _suite_of(model, name, source, tasks, part, watch)
    scores = suite.score(model.backbone, part=part, progress=progress)
    return {
        "model": name,
        "part": part,
        "accuracy": scores,
        "average": sum(scores.values()) / len(scores),
        "samples": {task: len(getattr(suite.tasks[task], part).samples) for task in scores},
    }


def load_readable(name: str, dtype: torch.dtype | None, device: str) -> Readable:
    """Load a model with the heads that are in its folder.

    Raises:
        OSError: there is no such model.
        ValueError: it is damaged, lacks tensors, or is no model of transformers.
    """
    folder = locate(name, ["config.json", HEADS_FILE], revision=None, token=None, local_files_only=False)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"a model must be a folder with config.json, or a repository; found none at {name!r}")
    if read_json(folder / "config.json").get("model_type") == MODEL_TYPE:
        model: nn.Module = from_pretrained(name, device_map=device, dtype=dtype, progress=False)
    else:
        model = cast("nn.Module", load_model(name, repr(name), dtype)).to(device)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{name!r} must be of a class of transformers to be evaluated; found {type(model).__name__}")
    path, backbone = backbone_of(model)
    heads = read_heads(folder / HEADS_FILE) if (folder / HEADS_FILE).is_file() else {}
    own = None if heads or path is None else task_head(model, backbone, repr(name))
    return Readable(backbone, heads, own)


def _check(source: SuiteSource, tasks: Sequence[str], part: Part) -> None:
    """Check what can be checked before anything is loaded."""
    if source.suite is not None:
        return
    if not source.tasks:
        raise ValueError("tasks must be given, or suite: a model is evaluated on their data")
    unknown = [task for task in tasks if task not in source.tasks]
    if unknown:
        raise ValueError(f"a task must be one of {list(source.tasks)}; found {unknown}")
    for task in tasks or source.tasks:
        if getattr(source.tasks[task], part) is None:
            raise ValueError(f"tasks.{task}.{part} must name a data file, to evaluate on it; found none")


def _suite_of(
    model: Readable, name: str, source: SuiteSource, tasks: Sequence[str], part: Part, watch: Stopwatch
) -> Suite:
    """Make the suite of one model and the tasks that are asked for."""
    if source.suite is not None:
        found, heads = _built_in(model, source, source.suite, watch)
    else:
        configs = {task: config for task, config in source.tasks.items() if not tasks or task in tasks}
        given = dict.fromkeys(configs, model.own) if model.own is not None else model.heads
        lacking = [task for task, config in configs.items() if task not in given and not config.has_head]
        beside = own_heads(source, lacking, watch)
        processor = source.base_model or name
        found, heads = load_tasks(configs, model.backbone, beside | dict(given), processor, [part], watch)
    unknown = [task for task in tasks if task not in found]
    if unknown:
        raise ValueError(f"a task must be one of {list(found)}; found {unknown}")
    chosen = {task: data for task, data in found.items() if not tasks or task in tasks}
    return Suite(model.backbone, {}, heads, chosen).to(model.backbone.device)


def _built_in(
    model: Readable, source: SuiteSource, config: SuiteConfig, watch: Stopwatch
) -> tuple[dict[str, Task], Heads]:
    """Load the tasks of a built-in suite; its experts are only made where the model has no heads for them."""
    tasks = load_tasks_of(config, watch)
    if model.own is not None:
        return tasks, dict.fromkeys(tasks, model.own)
    if tasks.keys() <= model.heads.keys():
        return tasks, model.heads
    return tasks, dict(load_suite(source, watch=watch).heads) | dict(model.heads)
