"""A suite: a base, its experts, and the tasks with their data and heads, which every way to merge is tried on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.data.batches import Batch, Labelled, Samples, ShuffledBatches, Task
from wemoe.evaluation import evaluate
from wemoe.head_shells import HeadShell, head_shell
from wemoe.heads import TaskHead
from wemoe.pooling import POOLINGS
from wemoe.predictions import to_device
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
    heads: Mapping[str, nn.Linear | TaskHead]
    tasks: dict[str, Task]
    _shells: WeakKeyDictionary[nn.Module, dict[str, HeadShell]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

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
        if isinstance(head, nn.Linear):
            features = POOLINGS[self.tasks[task].pooling](model, batch)
            return head(features)  # type: ignore[no-any-return]
        backbone = cast("PreTrainedModel", model)
        shells = self._shells.setdefault(backbone, {})
        if task not in shells or not shells[task].fits(backbone):
            shells[task] = head_shell(backbone, head)
        return shells[task].around(backbone)(**batch.inputs).logits  # type: ignore[no-any-return]

    def score(self, model: nn.Module, tasks: Iterable[str] | None = None, part: Part = "test") -> Scores:
        """Return a model's accuracy by task on one part of the data.

        Args:
            model: of the base's class, plain or routed.
            tasks: names; all by default.
            part: with labels.

        Raises:
            ValueError: a task has no such part.
        """
        names = list(self.tasks if tasks is None else tasks)
        parts = {name: self._labelled(name, part) for name in names}
        batches = {name: labelled.sorted_batches(self.tasks[name].batch_size) for name, labelled in parts.items()}
        return evaluate(model, batches, self.predict)

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
