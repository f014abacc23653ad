"""A routed model in both modes, routed sample by sample or by the average over the batch, and in both kinds of batch.

Averaged over the batch, what is predicted for a sample depends on what else is in its batch. In batches of one task, on
which published results were measured, the average even tells the task; in batches of all tasks it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from wemoe.evaluation.mixed import predict_mixed
from wemoe.evaluation.predicted import Predicted
from wemoe.routing_scope import BatchReduce
from wemoe.suites import Suite
from wemoe.task_config import Part

MODES = {"per_sample": False, "batch_averaged": True}  # whether routing weights are averaged


@dataclass(frozen=True)
class InBothBatches:
    """What a model predicts in one mode, by task, in batches of a single task and in batches of all tasks mixed."""

    single: Mapping[str, Predicted]
    mixed: Mapping[str, Predicted]

    @property
    def changed(self) -> int:
        """How many samples have another class in mixed batches than in those of their task alone."""
        return sum(int((self.single[task].classes != self.mixed[task].classes).sum()) for task in self.single)


def predict_in_modes(
    suite: Suite, model: nn.Module, part: Part = "test", *, per_sample: Mapping[str, Predicted] | None = None
) -> dict[str, InBothBatches]:
    """Run a routed model on every sample in each mode and each kind of batch.

    Args:
        suite: the tasks and their heads.
        model: routed; it is not changed.
        part: with labels.
        per_sample: what the model predicts with routing per sample in batches of one task, where that is known.

    Returns:
        By mode, `per_sample` and `batch_averaged`.
    """
    found = {}
    for mode, averages in MODES.items():
        with BatchReduce(averages):
            known = per_sample if mode == "per_sample" else None
            single = suite.predictions(model, part=part) if known is None else known
            found[mode] = InBothBatches(single, predict_mixed(suite, model, part))
    return found


def summarise_modes(found: Mapping[str, InBothBatches]) -> dict[str, Any]:
    """Return what can be written as JSON: accuracies by mode, batch and task, and the samples whose class changed."""
    accuracies = {
        mode: {
            batches: {task: predicted.accuracy for task, predicted in by_task.items()}
            for batches, by_task in (("single", both.single), ("mixed", both.mixed))
        }
        for mode, both in found.items()
    }
    samples = sum(len(predicted.labels) for predicted in found["per_sample"].single.values())
    return {**accuracies, "changed": {mode: both.changed for mode, both in found.items()}, "samples": samples}
