"""RegMean: every linear map merged so that its outputs are closest to the experts' own (arXiv 2212.09849, eq. 2).

For a map y = W_t x and the inputs X_t [rows, D] that it receives in expert t on its own task,

    G_t = X_t^T X_t / rows      G~_t = G_t with everything off the diagonal scaled by alpha
    W^T = (sum_t G~_t)^-1 sum_t G~_t W_t^T

which for alpha = 1 minimises sum_t |X_t (W - W_t)^T|^2 / rows. Everything else is averaged. No labels are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from wemoe.merging.average import average_rule
from wemoe.merging.grams import Gram, collecting_grams, linear_weights
from wemoe.merging.rules import Sources, merged_copy, open_sources
from wemoe.merging.running import Model, base_module, expert_module
from wemoe.predictions import Batch, Predict, check_batches, count_samples, to_device
from wemoe.task_vectors import with_tensors
from wemoe.weights import ExpertSources

RIDGE = 1e-9  # of the mean diagonal of G~: keeps the solution finite where no input has been seen; fp64 has 1e-16


def regmean(
    base_model: Model | str | os.PathLike[str],
    expert_models: ExpertSources,
    batches: Mapping[str, Iterable[Batch]],
    predict: Predict[Batch],
    *,
    alpha: float = 0.9,
    examples: int = 256,
) -> Model:
    """Merge the experts' linear maps by regression on their own inputs; average everything else.

    Linear layers, GPT-2's Conv1D and torch's own attention are merged by regression; averaged are biases, norms,
    embeddings and convolutions, weights that are tied, and maps that some expert's data never reach. Padded tokens, by
    the `attention_mask` [B, N] that the model is called with, do not count. Each task counts alike, however many rows
    it has. In directions of which no input has been seen a map is the average. Memory does not grow with T: of the
    experts, and of their Gram matrices, there is one at a time.

    Args:
        base_model: the pre-trained model, a module or where a checkpoint is; it gives the class and all that is not
            floating point; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name, each a module, a state
            dict, or where a checkpoint or an adapter is; untouched. They run as models like the base, in its dtype, in
            evaluation mode and without gradients.
        batches: by task, batches of the task's inputs, best in random order. The tensors of a batch share their first
            dimension, the samples. Whole batches are read until there are `examples` samples.
        predict: `predict(model, batch, task)` runs the model; what it returns is not used.
        alpha: scale of what is off the diagonal of the Gram matrices; less than 1 keeps the solution near the average
            of maps whose inputs are correlated.
        examples: number of samples per task.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        FileNotFoundError, ImportError: a source cannot be opened.
        TypeError: `expert_models` is no sequence or mapping of sources, the base cannot be run, or `batches` is no
            mapping.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, a task has no
            batches, an input of a map is not finite, an option is out of its range, or a file is damaged.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1]; found {alpha}")
    with open_sources(base_model, expert_models) as sources:
        check_batches(batches, sources.experts, examples)
        base = base_module(base_model, sources)
        averaged = merged_copy(base, sources, average_rule(sources))
        maps = _Maps(averaged, sources)
        for task in sources.experts:
            maps.add(task, _collect(expert_module(base, sources, task), batches[task], predict, task, examples), alpha)
        return with_tensors(averaged, maps.solve())


class _Maps:
    """Sums over the experts for every linear map: of Gram matrices, and of what they make of its distance to the mean.

    Args:
        averaged: the mean of the experts.
        sources: of the experts' maps.
    """

    def __init__(self, averaged: nn.Module, sources: Sources) -> None:
        self._means = averaged.state_dict()
        self._sources = sources
        self._transposed = {n: t for n, t in linear_weights(averaged).items() if n in sources.names}
        self._grams: dict[str, Tensor] = {}  # sum_t G~_t [D, D]
        self._products: dict[str, Tensor] = {}  # sum_t G~_t (W_t^T - mean) [D, F]

    def add(self, task: str, grams: dict[str, Gram], alpha: float) -> None:
        """Take an expert and its Gram matrices, which are used up; a map without inputs is left to the average."""
        for name in list(self._transposed):
            gram = grams.pop(name)
            if gram.rows == 0:
                del self._transposed[name]
                continue
            _check_finite(gram, task, name)
            mean = self._map(self._means[name], name)
            distance = self._map(self._sources.expert_tensor(task, name), name) - mean
            scaled = gram.mean(alpha).to(mean.device)
            self._grams[name] = self._grams.get(name, 0) + scaled
            self._products[name] = self._products.get(name, 0) + scaled @ distance

    def solve(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of the merged maps: the mean, and what the inputs say that it is off."""
        for name, transposed in self._transposed.items():
            gram = self._grams.pop(name)
            diagonal = gram.diagonal()
            diagonal += RIDGE * diagonal.mean() or 1.0  # inputs that are all zero say nothing
            correction = torch.linalg.solve(gram, self._products.pop(name))
            merged = self._map(self._means[name], name) + correction
            yield name, merged if transposed else merged.T

    def _map(self, weight: Tensor, name: str) -> Tensor:
        """Return a map's weight as [D, F] in fp64."""
        return (weight if self._transposed[name] else weight.T).double()


def _collect(
    expert: nn.Module, batches: Iterable[Batch], predict: Predict[Batch], task: str, examples: int
) -> dict[str, Gram]:
    device = next(expert.parameters()).device
    read = 0
    with torch.no_grad(), collecting_grams(expert, linear_weights(expert)) as grams:
        for batch in batches:
            read += count_samples(batch, task)
            predict(expert, to_device(batch, device), task)
            if read >= examples:
                break
    if read == 0:
        raise ValueError(f"batches[{task!r}] must hold at least one sample; found none")
    return grams


def _check_finite(gram: Gram, task: str, name: str) -> None:
    if gram.matrix is not None and not gram.matrix.isfinite().all():
        raise ValueError(f"the inputs of {name!r} must be finite; found NaN or infinity in task {task!r}")
