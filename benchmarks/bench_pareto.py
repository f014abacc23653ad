"""A training step of preference routers, against a statically merged model and against plain PyTorch.

One batch of each of six tasks: forward, cross-entropy of a frozen head, gradients of the routers, and the step. The
plain model is statically merged; the same losses of it are differentiated by the embeddings that go in. `vectorised`
is plain PyTorch that merges once for all tasks too. Weights are random and nothing is downloaded.
"""

from functools import partial

import pytest
import torch
import work
from bench_model import CLASSES, MINILM, fine_tuned
from cases import PARETO_STEP_BOUND, Case
from machine import THREADS
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import wemoe
from wemoe.pareto import EPO, sample_ray, train
from wemoe.preference_layers import PreferenceLayer

TASKS = [f"task{t}" for t in range(6)]
INIT_LAMBDA = 0.3


class Batches:
    """One batch of embeddings [B, N, D] and labels [B] of each task, and the loss of a model on it."""

    def __init__(self, B, N):
        D = MINILM.config.hidden_size
        self.by_task = {task: (torch.randn(B, N, D), torch.randint(CLASSES, (B,))) for task in TASKS}
        self.heads = {task: nn.Linear(D, CLASSES).requires_grad_(False) for task in TASKS}

    def loss(self, model, batch, task):
        x, labels = batch
        return F.cross_entropy(self.heads[task](model(inputs_embeds=x).last_hidden_state.mean(dim=1)), labels)


class Recorded:
    """EPO, and the losses and the Gram matrix that it was given."""

    def __init__(self):
        self.epo = EPO()

    def __call__(self, losses, gram, ray):
        self.seen = losses, gram
        return self.epo(losses, gram, ray)


def step(model, batches):
    """One step of `train`, so small that every step starts from the same routers."""
    scalarization = Recorded()
    loaders = {task: [batch] for task, batch in batches.by_task.items()}
    train(model, loaders, batches.loss, scalarization=scalarization, steps=1, learning_rate=1e-30, progress=False)
    return scalarization.seen


def passes(model, batches):
    """Forward and backward of all tasks, down to the embeddings."""
    for task, (x, labels) in batches.by_task.items():
        x = x.detach().requires_grad_()
        torch.autograd.grad(batches.loss(model, (x, labels), task), x)


def torch_step(merged, model, batches):
    """The same as `step` in plain PyTorch: weights merged once by sums of matrices, a graph for each task."""
    routers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = {path: module for path, module in model.named_modules() if isinstance(module, PreferenceLayer)}
    wemoe.set_preference(model, sample_ray(len(TASKS), 1.0, torch.Generator().manual_seed(0)))
    weights = {
        f"{path}.{name}": torch.addmm(
            theta.view(1, -1), layer.router(), layer.task_vector_tensors()[name].flatten(1)
        ).view_as(theta)
        for path, layer in layers.items()
        for name, theta in layer.base.named_parameters()
    }

    def call(**inputs):
        return functional_call(merged, weights, kwargs=inputs)

    losses, rows = [], []
    for task, batch in batches.by_task.items():
        losses.append(batches.loss(call, batch, task))
        gradients = torch.autograd.grad(losses[-1], routers, retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    jacobian = torch.stack(rows)
    return torch.stack(losses).detach().double(), jacobian @ jacobian.T


def check(outputs):
    """The roundings of six layers in fp32, as in the adaptation step of whole models."""
    for found, expected in zip(outputs["model"], outputs["vectorised"], strict=True):
        assert torch.dist(found, expected) <= 1e-3 * expected.norm()


def make_case(B, N):
    """Embeddings, norms, heads and routers are left out: they are small."""
    D, layers, T = MINILM.config.hidden_size, MINILM.config.num_hidden_layers, len(TASKS)
    rest = work.attention(B, N, D) * layers * 2
    forward_and_backward = work.mlp(1, B * N, D, 4 * D) * layers * 2
    of_weights = work.mlp(1, B * N, D, 4 * D) * layers  # their gradients: one more product
    merging = work.merging(8 * D * D * layers, T)  # for the step, and back from the weights' gradients of each task
    return Case(
        f"{MINILM} training step, six tasks, B={B} N={N}",
        (rest + forward_and_backward + of_weights + merging) * T + merging,
        {"plain": (rest + forward_and_backward) * T},
        ours="model",
        at_most=PARETO_STEP_BOUND,
        binding=THREADS == 1,
    )


# the quick start's batches of 16 texts have 13 to 34 tokens each on average
@pytest.mark.parametrize(("B", "N"), [(16, 16), (16, 32)])
def test_training_step(compare, B, N):
    base = MINILM.kind(MINILM.config).eval().requires_grad_(False)
    experts = {task: fine_tuned(base) for task in TASKS}
    model = wemoe.upcycle(base, experts, method="pwemoe", init_lambda=INIT_LAMBDA, progress=False)
    merged = wemoe.task_arithmetic(base, experts, scaling=INIT_LAMBDA).requires_grad_(False)
    batches = Batches(B, N)
    methods = {
        "plain": partial(passes, merged, batches),
        "model": partial(step, model, batches),
        "vectorised": partial(torch_step, merged, model, batches),
    }
    compare(make_case(B, N), methods, check)
