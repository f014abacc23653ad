"""The built-in suites: what their experts are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from wemoe.data import minilm, text6
from wemoe.data.batches import Labelled, Task, tokenize_task
from wemoe.data.cache import cache_folder
from wemoe.data.images import Pixels
from wemoe.data.vision8 import fetching
from wemoe.data.vision8.pack import ImageTask, Part, load_pack
from wemoe.pretraining import cached_base
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import SuiteConfig, TextSuite, VisionSuite


@dataclass(frozen=True)
class Foundation:
    """What the experts of a suite are made from.

    Attributes:
        base: the pre-trained model, without a head.
        tasks: by name, the data.
        heads: by task, frozen heads that are there before the experts; of texts none.
    """

    base: PreTrainedModel
    tasks: dict[str, Task]
    heads: Mapping[str, nn.Linear] = field(default_factory=dict)


def load_foundation(config: SuiteConfig, watch: Stopwatch) -> Foundation:
    """Load the base and the chosen tasks of a built-in suite; what is missing is fetched, or trained, at first use.

    Raises:
        ConnectionError: something is not in the cache and can't be downloaded.
        ValueError: a file is damaged.
    """
    if isinstance(config, TextSuite):
        return _text6(config, watch)
    if isinstance(config, VisionSuite):
        return _vision8(config, watch)
    raise TypeError(f"config must be of a built-in suite; found {type(config).__name__}")


def load_tasks_of(config: SuiteConfig, watch: Stopwatch) -> dict[str, Task]:
    """Load the chosen tasks of a built-in suite alone; errors as of `load_foundation`."""
    if isinstance(config, VisionSuite):
        return {name: image_task(task) for name, task in _images(config, watch).items()}
    return load_foundation(config, watch).tasks


def _text6(config: TextSuite, watch: Stopwatch) -> Foundation:
    with watch.stage("load texts and base model"):
        base, tokenizer = minilm.load()
        texts = text6.load()
        tasks = {name: tokenize_task(texts[name], tokenizer, config.max_length) for name in config.tasks or texts}
    return Foundation(base, tasks)


def _vision8(config: VisionSuite, watch: Stopwatch) -> Foundation:
    images = _images(config, watch)
    with watch.stage("base"):
        data = {name: _labelled(task.parts["pretraining"]) for name, task in images.items()}
        labels = {name: len(task.label_names) for name, task in images.items()}
        found = cached_base(cache_folder() / "bases", data, labels, config.pretraining)
    return Foundation(found.model, {name: image_task(task) for name, task in images.items()}, found.heads_by_task)


def _images(config: VisionSuite, watch: Stopwatch) -> dict[str, ImageTask]:
    with watch.stage("load images"):
        images = load_pack(config.pack) if config.pack is not None else fetching.load()
    missing = [name for name in config.tasks or () if name not in images]
    if missing:
        raise ValueError(f"suite.tasks must be in the pack, which has {list(images)}; found {missing}")
    return {name: images[name] for name in config.tasks or images}


def image_task(task: ImageTask) -> Task:
    """Return a task of a pack as a model reads it; the labels of the unlabeled part are left behind."""
    return Task(
        num_labels=len(task.label_names),
        train=_labelled(task.parts["train"]),
        validation=_labelled(task.parts["validation"]),
        unlabeled=Pixels(task.parts["unlabeled"].images),
        test=_labelled(task.parts["test"]),
        pooling="pooler",
    )


def _labelled(part: Part) -> Labelled:
    return Labelled(Pixels(part.images), torch.from_numpy(part.labels))
