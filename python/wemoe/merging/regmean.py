"""RegMean: every linear map merged so that its outputs are closest to the experts' own (arXiv 2212.09849, eq. 2).

For a map y = W_t x and the inputs X_t [rows, D] that it receives in expert t on its own task,

    G_t = X_t^T X_t / rows      G~_t = G_t with everything off the diagonal scaled by alpha
    W^T = (sum_t G~_t)^-1 sum_t G~_t W_t^T

which for alpha = 1 minimises sum_t |X_t (W - W_t)^T|^2 / rows. Everything else is averaged. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wemoe.merging.average import average
from wemoe.merging.grams import Gram, collecting_grams, linear_weights
from wemoe.modes import evaluating
from wemoe.predictions import Batch, Predict, check_batches, count_samples, to_device
from wemoe.task_vectors import Experts, Model, name_experts, with_tensors

RIDGE = 1e-9  # of the mean diagonal of G~: keeps the solution finite where no input has been seen; fp64 has 1e-16


def regmean(
    base_model: Model,
    expert_models: Experts[Model],
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
    it has. In directions of which no input has been seen a map is the average.

    Args:
        base_model: the pre-trained model, which gives the class and all that is not floating point; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched. They run in
            evaluation mode, without gradients, one after the other.
        batches: by task, batches of the task's inputs, best in random order. The tensors of a batch share their first
            dimension, the samples. Whole batches are read until there are `examples` samples.
        predict: `predict(model, batch, task)` runs the model; what it returns is not used.
        alpha: scale of what is off the diagonal of the Gram matrices; less than 1 keeps the solution near the average
            of maps whose inputs are correlated.
        examples: number of samples per task.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules, or `batches` no mapping.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, a task has no
            batches, an input of a map is not finite, or an option is out of its range.
    """
    experts = name_experts(expert_models)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1]; found {alpha}")
    check_batches(batches, experts, examples)
    averaged: Model = average(base_model, experts)
    weights = linear_weights(base_model)
    means = _maps(averaged, weights)
    regressions = {name: _Regression(mean) for name, mean in means.items()}
    for task, expert in experts.items():
        grams = _collect(expert, batches[task], predict, task, examples, weights)
        for name, weight in _maps(expert, weights).items():
            _check_finite(grams[name], task, name)
            regressions[name].add(grams[name], weight, alpha)
    complete = {name: regression for name, regression in regressions.items() if regression.complete}
    solved = ((name, regression.solve()) for name, regression in complete.items())
    return with_tensors(averaged, ((name, w if weights[name] else w.T) for name, w in solved))


class _Regression:
    """Sums for one map over the experts, of Gram matrices and of what they make of the map's distance to the mean.

    Args:
        mean: of the experts' maps, [D, F] in fp64.
    """

    def __init__(self, mean: Tensor) -> None:
        self.complete = True
        self._mean = mean
        self._gram = mean.new_zeros(mean.shape[0], mean.shape[0])  # sum_t G~_t
        self._product = torch.zeros_like(mean)  # sum_t G~_t (W_t^T - mean)

    def add(self, gram: Gram, weight: Tensor, alpha: float) -> None:
        """Take one expert's inputs and map [D, F]; without inputs the regression is not complete."""
        if gram.rows == 0:
            self.complete = False
            return
        scaled = gram.mean(alpha).to(weight.device)
        self._gram += scaled
        self._product += scaled @ (weight - self._mean)

    def solve(self) -> Tensor:
        """Return the merged map [D, F]: the mean, and what the inputs say that it is off."""
        diagonal = self._gram.diagonal()
        diagonal += RIDGE * diagonal.mean() or 1.0  # inputs that are all zero say nothing
        correction: Tensor = torch.linalg.solve(self._gram, self._product)
        return self._mean + correction


def _maps(model: nn.Module, weights: Mapping[str, bool]) -> dict[str, Tensor]:
    """Return linear maps by the names of their weights, as [D, F] in fp64."""
    state = model.state_dict()
    return {name: (state[name] if transposed else state[name].T).double() for name, transposed in weights.items()}


def _collect(
    expert: nn.Module,
    batches: Iterable[Batch],
    predict: Predict[Batch],
    task: str,
    examples: int,
    weights: Mapping[str, bool],
) -> dict[str, Gram]:
    device = next(expert.parameters()).device
    read = 0
    with evaluating(expert), torch.no_grad(), collecting_grams(expert, weights) as grams:
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
