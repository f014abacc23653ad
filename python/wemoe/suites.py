"""A suite: a base, its experts, and the tasks with their data and heads, which every way to merge is tried on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from wemoe.built_in import Foundation, load_foundation
from wemoe.data.batches import Batch, Labelled, Samples, ShuffledBatches, ShuffledPairs, Task
from wemoe.data.cache import cache_folder
from wemoe.data.parts import ALL_PARTS
from wemoe.evaluation import Measured, Predicted, evaluate, mean_losses, predict_all
from wemoe.experts import cached_expert
from wemoe.head_shells import HeadShell, head_shell
from wemoe.heads import Head, PooledHead, read_pooled
from wemoe.pooling import POOLINGS
from wemoe.predictions import to_device
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import FineTuning
from wemoe.suite_loading import SuiteSource, chosen_dtype, load_models, load_tasks
from wemoe.task_config import Part

Scores = dict[str, float]  # accuracy in [0, 1] by task


@dataclass(frozen=True)
class Suite:
    """The models at hand, the tasks, and the frozen heads that read any of the models.

    Attributes:
        base: the pre-trained model, without a head.
        experts: by task, what was fine-tuned from it, without heads.
        heads: by task, what reads a model of the base's class.
        tasks: by name, the data.
    """

    base: PreTrainedModel
    experts: dict[str, PreTrainedModel]
    heads: Mapping[str, Head]
    tasks: dict[str, Task]
    _shells: WeakKeyDictionary[nn.Module, dict[str, HeadShell]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Suite:
        """Move the models and pooled heads to a device, in place, and convert the models where a dtype is given."""
        models: list[nn.Module] = [self.base, *self.experts.values()]
        for model in models:
            model.to(device=device, dtype=dtype)
        for head in self.heads.values():
            if isinstance(head, nn.Module):
                head.to(device)
        return self

    def predict(self, model: nn.Module, batch: Batch, task: str) -> Tensor:
        """Read a model for a task.

        What a `TaskHead` needs to read a model is made at the first batch and kept for as long as the model lives.

        Args:
            model: of the base's class, plain or routed.
            batch: of the task's samples, on any device.
            task: whose head reads the model.

        Returns:
            Logits [B, C].
        """
        head = self.heads[task]
        batch = to_device(batch, next(model.parameters()).device)
        if isinstance(head, PooledHead):
            features = POOLINGS[self.tasks[task].pooling](model, batch)
            return read_pooled(head, features)
        backbone = cast("PreTrainedModel", model)
        shells = self._shells.setdefault(backbone, {})
        if task not in shells or not shells[task].fits(backbone):
            shells[task] = head_shell(backbone, head)
        return shells[task].around(backbone)(**batch.inputs).logits  # type: ignore[no-any-return]

    def score(
        self, model: nn.Module, tasks: Iterable[str] | None = None, part: Part = "test", *, progress: bool = False
    ) -> Scores:
        """Return a model's accuracy by task on one part of the data.

        Args:
            model: of the base's class, plain or routed.
            tasks: names; all by default.
            part: with labels.
            progress: whether to show a progress bar for each task.

        Raises:
            ValueError: a task is unknown or has no such part.
        """
        return evaluate(model, self.batches(tasks, part, progress=progress), self.predict)

    def predictions(
        self, model: nn.Module, tasks: Iterable[str] | None = None, part: Part = "test", *, progress: bool = False
    ) -> dict[str, Predicted]:
        """Return what a model predicts for every sample of one part, in their order: accuracy, and count of each class.

        Arguments and errors are those of `score`; the accuracies are too.
        """
        return predict_all(model, self.batches(tasks, part, progress=progress), self.predict)

    def loss(self, model: nn.Module, batch: tuple[Batch, Tensor], task: str) -> Tensor:
        """Return the mean cross-entropy of a model on a batch and its labels [B], a scalar in fp32 or fp64."""
        inputs, labels = batch
        logits = self.predict(model, inputs, task)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits, labels.to(logits.device))

    def measure(self, model: nn.Module, *, samples: int | None = None) -> Measured:
        """Return a model's mean validation loss and its test accuracy by task; each sample is read once.

        Args:
            model: of the base's class, plain or routed.
            samples: of each part of a task at most, the same for every model; all by default.

        Raises:
            ValueError: a task has no labelled validation or test data, or `samples` is below 1.
        """
        validation, test = (self.batches(part=part, samples=samples) for part in ("validation", "test"))
        return Measured(mean_losses(model, validation, self.loss), evaluate(model, test, self.predict))

    def batches(
        self,
        tasks: Iterable[str] | None = None,
        part: Part = "test",
        *,
        samples: int | None = None,
        progress: bool = False,
    ) -> dict[str, Iterator[tuple[Batch, Tensor]]]:
        """Return the labelled batches of one part by task, every sample once; arguments and errors as of `score`.

        Args:
            tasks: names; all by default.
            part: with labels.
            samples: of each task at most (`Labelled.at_most`).
            progress: whether to show a progress bar for each task.
        """
        names = self._known(self.tasks if tasks is None else tasks)
        parts = {name: self._labelled(name, part).at_most(samples) for name in names}
        return {
            name: _told(labelled, self.tasks[name].batch_size, f"evaluate ({name})" if progress else None)
            for name, labelled in parts.items()
        }

    def streams(self, batch_size: int, seed: int) -> dict[str, ShuffledBatches]:
        """Return each task's unlabeled batches, to adapt on; see `inputs`."""
        return self.inputs("unlabeled", batch_size, seed)

    def inputs(self, part: Part, batch_size: int, seed: int) -> dict[str, ShuffledBatches]:
        """Return each task's batches of one part, without labels.

        Args:
            part: labelled or not.
            batch_size: number of samples.
            seed: decides the order, which is new in each iteration.

        Raises:
            ValueError: a task has no such part.
        """
        return {name: ShuffledBatches(self._samples(name, part), batch_size, seed) for name in self.tasks}

    def labelled_streams(
        self, batch_size: int, seed: int, *, part: Part = "train", samples: int | None = None
    ) -> dict[str, ShuffledPairs]:
        """Return each task's batches with their labels, to train on.

        Args:
            batch_size: number of samples.
            seed: decides the order, which is new in each iteration.
            part: with labels.
            samples: of each task at most (`Labelled.at_most`).

        Raises:
            ValueError: a task has no such part, or `samples` is below 1.
        """
        parts = {name: self._labelled(name, part).at_most(samples) for name in self.tasks}
        return {name: ShuffledPairs(labelled, batch_size, seed) for name, labelled in parts.items()}

    def only(self, tasks: Iterable[str]) -> Suite:
        """Return the suite of some of the tasks, in the order that is given; models, heads and data are shared.

        Raises:
            ValueError: a task is unknown.
        """
        names = self._known(tasks)
        experts = {name: self.experts[name] for name in names if name in self.experts}
        heads = {name: self.heads[name] for name in names}
        return replace(self, experts=experts, heads=heads, tasks={name: self.tasks[name] for name in names})

    def _known(self, tasks: Iterable[str]) -> list[str]:
        names = list(tasks)
        unknown = [name for name in names if name not in self.tasks]
        if unknown:
            raise ValueError(f"tasks must be among the suite's, {list(self.tasks)}; found {unknown}")
        return names

    def _samples(self, task: str, part: Part) -> Samples:
        if part != "unlabeled":
            return self._labelled(task, part).samples
        found = self.tasks[task].unlabeled
        if found is None:
            raise ValueError(
                f"task {task!r} must have samples to adapt on: unlabeled, train or validation data, or test data "
                "with adapt_on: test; found none"
            )
        return found

    def _labelled(self, task: str, part: Part) -> Labelled:
        found = getattr(self.tasks[task], part)
        if not isinstance(found, Labelled):
            raise ValueError(f"task {task!r} must have labelled {part} data; found none")
        return found


def _told(labelled: Labelled, size: int, title: str | None) -> Iterator[tuple[Batch, Tensor]]:
    """Yield sorted batches, under a progress bar that begins with the first one where it has a title."""
    batches = -(-len(labelled.samples) // size)
    yield from tqdm(labelled.sorted_batches(size), total=batches, desc=title, disable=title is None)


def load_suite(
    source: SuiteSource,
    *,
    device: str | torch.device = "cpu",
    parts: Collection[Part] = ALL_PARTS,
    watch: Stopwatch | None = None,
) -> Suite:
    """Load the suite that a configuration describes.

    Args:
        source: a built-in suite, or a base, experts and tasks of one's own (`SuiteSource`).
        device: of the models.
        parts: of the data, which are loaded.
        watch: tells of what is loaded.

    Returns:
        The suite; its models are backbones in evaluation mode.

    Raises:
        OSError: a model or a file is missing.
        ValueError: a model lacks tensors, a task has no head, or its data are not what they must be.
    """
    watch = watch or Stopwatch(lambda _: None)
    if source.suite is None:
        models = load_models(source, watch)
        processor = cast("str", source.base_model)  # which `load_models` has checked
        tasks, heads = load_tasks(source.tasks, models.base, models.heads, processor, parts, watch)
        return Suite(models.base, models.experts, heads, tasks).to(device)
    foundation = load_foundation(source.suite, watch)
    suite = fine_tuned_suite(foundation, source.suite.fine_tuning, source.seed, watch)
    return suite.to(device, chosen_dtype(source))


def fine_tuned_suite(foundation: Foundation, how: FineTuning, seed: int, watch: Stopwatch) -> Suite:
    """Make the experts of a suite on its training data, and heads where there are none, or take them from the cache.

    Args:
        foundation: the pre-trained model, which stays untouched, tasks with training data, and heads.
        how: the recipe of fine-tuning.
        seed: of fine-tuning.
        watch: tells of each expert.

    Raises:
        ValueError: a task has no training data.
    """
    experts = {}
    for name, task in foundation.tasks.items():
        with watch.stage(f"expert: {name}"):
            folder, head = cache_folder() / "experts", foundation.heads.get(name)
            experts[name] = cached_expert(folder, name, foundation.base, task, how, seed, head)
    models = {name: expert.model for name, expert in experts.items()}
    heads = {name: expert.head for name, expert in experts.items()}
    return Suite(foundation.base, models, heads, foundation.tasks)
