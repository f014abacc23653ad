"""Making experts: a frozen linear head per task, and the base fine-tuned under it.

The head stays frozen, as a zero-shot head of a contrastive model does, so that base, experts and merged models are all
read by the same one. Where it is not there before, it is a logistic probe of the base's own features.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from wemoe.data.batches import Labelled, Samples, ShuffledBatches, Task, read_all
from wemoe.data.cache import load_tensors, save_tensors, sha256_of_tensors
from wemoe.data.shifting import shifted_images
from wemoe.heads import frozen_head
from wemoe.modes import evaluating
from wemoe.pooling import POOLINGS
from wemoe.suite_config import FineTuning, Pretraining
from wemoe.task_config import Pooling


@torch.no_grad()
def all_features(model: nn.Module, samples: Samples, batch_size: int = 64, pooling: Pooling = "mean") -> Tensor:
    """Features of every sample, in the samples' order [len(samples), D]."""
    with evaluating(model):
        return read_all(samples, batch_size, partial(POOLINGS[pooling], model))


def fit_head(features: Tensor, labels: Tensor, num_labels: int, l2: float = 1e-3) -> nn.Linear:
    """Fit a logistic probe by L-BFGS and freeze it.

    The penalty acts on features scaled to a mean norm of 10, so that it means the same for every base.

    Args:
        features: [S, D].
        labels: [S], in 0 .. num_labels - 1.
        num_labels: C.
        l2: weight of the squared norm of the weights.

    Returns:
        A frozen linear layer from D to C.
    """
    scale = 10 / features.norm(dim=1).mean()
    weight = torch.zeros(num_labels, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features * scale, weight, bias), labels) + l2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return frozen_head(weight.detach() * scale, bias.detach())


def fine_tune(
    base: PreTrainedModel, head: nn.Linear, train: Labelled, how: FineTuning, seed: int, pooling: Pooling = "mean"
) -> PreTrainedModel:
    """Fine-tune a copy of the base on one task, under its frozen head.

    Args:
        base: the pre-trained model; untouched.
        head: the task's head.
        train: the training samples and their labels.
        how: the recipe.
        seed: of dropout, and of the order and the shifts of the samples; torch's global state is restored.
        pooling: what the head reads.

    Returns:
        The expert, in evaluation mode.
    """
    expert = copy.deepcopy(base)
    trained = [parameter for name, parameter in expert.named_parameters() if name.startswith(how.trained)]
    expert.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    batches = ShuffledBatches(train.samples, how.batch_size, seed)
    shifts = torch.Generator().manual_seed(seed)
    step = descent(trained, how, steps=how.epochs * len(batches))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expert.train()
        for _ in range(how.epochs):
            for batch in batches:
                features = POOLINGS[pooling](expert, shifted_images(batch, how.shift, shifts))
                step(F.cross_entropy(head(features), train.labels[batch.rows]))
    return expert.requires_grad_(True).eval()  # type: ignore[no-any-return,no-untyped-call]


def descent(parameters: list[nn.Parameter], how: FineTuning | Pretraining, steps: int) -> Callable[[Tensor], None]:
    """Return what changes parameters for a step, given the step's loss: AdamW, with gradients that are clipped.

    The learning rate grows for a tenth of the steps, and falls to 0 in the others.

    Args:
        parameters: that are trained.
        how: learning rate, weight decay, and the norm that gradients are clipped to.
        steps: in all.
    """
    warm_up = 0.1 * steps
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up), 1.0)
    )

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, how.max_gradient_norm)
        optimizer.step()
        schedule.step()

    return step


@dataclass(frozen=True)
class Expert:
    """A fine-tuned model and the frozen head that reads it."""

    model: PreTrainedModel
    head: nn.Linear


def cached_expert(
    folder: Path,
    name: str,
    base: PreTrainedModel,
    task: Task,
    how: FineTuning,
    seed: int,
    head: nn.Linear | None = None,
) -> Expert:
    """Read an expert from the cache, or make it and keep it there.

    The file's name depends on everything that the expert is made from; a damaged file is made again.

    Args:
        folder: where experts are kept.
        name: the task's name, which begins the file's.
        base: the pre-trained model; untouched.
        task: the task's samples; training ones among them.
        how: the recipe of fine-tuning.
        seed: of fine-tuning.
        head: the task's frozen head; by default a probe of the base.

    Returns:
        The expert, in evaluation mode.

    Raises:
        ValueError: the task has no training samples.
    """
    path = folder / f"{name}-seed{seed}-{_key(base, task, how, head)}.safetensors"
    tensors = load_tensors(path)
    if tensors is None:
        expert = make_expert(base, task, how, seed, head)
        save_tensors(path, _trained(expert, how))
        return expert
    own = frozen_head(tensors.pop("head.weight"), tensors.pop("head.bias"))
    model = copy.deepcopy(base)
    model.load_state_dict(tensors, strict=False)  # what was not trained is the base's own
    return Expert(model, own)


def make_expert(base: PreTrainedModel, task: Task, how: FineTuning, seed: int, head: nn.Linear | None = None) -> Expert:
    """Fine-tune the base under a task's head, or under one that is fitted to the base first."""
    train = _training(task)
    if head is None:
        features = all_features(base, train.samples, pooling=task.pooling)
        head = fit_head(features, train.labels, task.num_labels)
    return Expert(fine_tune(base, head, train, how, seed, task.pooling), head)


def _training(task: Task) -> Labelled:
    if task.train is None:
        raise ValueError("an expert is made of a task's training samples; found a task without any")
    return task.train


def _key(base: PreTrainedModel, task: Task, how: FineTuning, head: nn.Linear | None) -> str:
    train = _training(task)
    rows = range(len(train.samples))
    samples = {f"{row}.{name}": value for row in rows for name, value in train.samples.inputs([row]).items()}
    ingredients = [
        sha256_of_tensors(base.state_dict()),
        sha256_of_tensors(samples | {"labels": train.labels}),
        json.dumps(dataclasses.asdict(how) | {"num_labels": task.num_labels}, sort_keys=True),
    ]
    if head is not None:
        ingredients.append(sha256_of_tensors(head.state_dict()))
    return hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:16]


def _trained(expert: Expert, how: FineTuning) -> dict[str, Tensor]:
    """The parameters of an expert that differ from the base's, and its head's."""
    trained = {name: theta for name, theta in expert.model.named_parameters() if name.startswith(how.trained)}
    return {"head.weight": expert.head.weight, "head.bias": expert.head.bias} | trained
