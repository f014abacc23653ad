"""Whole models, upcycled: inference and one step of test-time adaptation, against the plain model and plain PyTorch.

Weights are random and nothing is downloaded. All routed models are one model but for how their MLPs are computed: they
share every other weight, the routers' too. The plain model is of the same shape, as a statically merged one is.
"""

import copy
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import work
from cases import INFERENCE_BOUNDS, Case
from machine import THREADS
from torch import nn
from torch_mlp import TorchMLP
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, GPT2Config, GPT2Model

import wemoe
from wemoe.adaptation.objectives import mean_entropy
from wemoe.mlps import MLPParts, linear_sizes, parts_at, weight_of
from wemoe.models import find_blocks

CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A model's configuration, the argument that its forward takes, and the sizes of its batches.

    Its MLPs are four times as wide as its hidden states.
    """

    name: str
    kind: type
    config: object
    argument: str
    sample: tuple[int, ...]
    tokens: int
    inference_batch: int
    inference_tasks: int = 8
    adaptation_batch: int | None = None
    adaptation_tasks: int = 8

    def __str__(self):
        return self.name


# CLIP adapts to 4 tasks on batches of 8: vectorised PyTorch saves 227 MB of merged weights a sample.
CLIP = Model(
    "CLIP ViT-B/32",
    CLIPVisionModel,
    CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    "pixel_values",
    (3, 224, 224),
    tokens=50,
    inference_batch=16,
    adaptation_batch=8,
    adaptation_tasks=4,
)
MINILM = Model(
    "MiniLM",
    BertModel,
    BertConfig(
        vocab_size=100,  # embeddings are given, no vocabulary is read
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
    ),
    "inputs_embeds",
    (128, 384),
    tokens=128,
    inference_batch=16,
    adaptation_batch=16,
)
GPT2 = Model(
    "GPT-2 small",
    GPT2Model,
    GPT2Config(vocab_size=100, n_embd=768, n_inner=3072, n_layer=12, n_head=12, use_cache=False),
    "inputs_embeds",
    (128, 768),
    tokens=128,
    inference_batch=8,
)


def make_models(model, tasks):
    base = model.kind(model.config).eval().requires_grad_(False)
    experts = [fine_tuned(base) for _ in range(tasks)]
    routed = wemoe.upcycle(base, experts)
    mlps = {path: make_torch_mlp(routed, base, experts, path, family) for path, family in find_blocks(base).items()}
    return {
        "plain": base,
        "model": routed,
        "vectorised": with_mlps(routed, base, {path: mlp.vectorised for path, mlp in mlps.items()}),
        "loop": with_mlps(routed, base, {path: mlp.loop for path, mlp in mlps.items()}),
    }


def mlps_of(model):
    return [parts_at(model.get_submodule(path), family.mlp) for path, family in find_blocks(model).items()]


def fine_tuned(base):
    """A copy with MLPs of its own; it shares all other weights, which would double the memory of eight experts."""
    own = {id(p) for mlp in mlps_of(base) for linear in (mlp.up, mlp.down) for p in linear.parameters()}
    expert = copy.deepcopy(base, {id(p): p for p in base.parameters() if id(p) not in own})
    for parameter in (p for mlp in mlps_of(expert) for linear in (mlp.up, mlp.down) for p in linear.parameters()):
        parameter += 0.01 * torch.randn_like(parameter)
    return expert


def make_torch_mlp(routed, base, experts, path, family):
    def mlp(source):
        return as_sequential(parts_at(source.get_submodule(path), family.mlp))

    router = routed.get_submodule(f"{path}.{family.mlp.replaced}").router
    return TorchMLP(mlp(base), [mlp(expert) for expert in experts], router)


def as_sequential(parts: MLPParts):
    """The MLP of linear layers that share the weights of its parts, whichever way these keep them."""

    def as_linear(part):
        linear = nn.Linear(*linear_sizes(part), device="meta")
        linear.weight = nn.Parameter(weight_of(part), requires_grad=False)
        linear.bias = part.bias
        return linear

    return nn.Sequential(as_linear(parts.up), parts.activation, as_linear(parts.down))


class Computed(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def with_mlps(routed, base, functions):
    """A model that shares all parameters with a routed one and computes its MLPs by other functions."""
    model = copy.deepcopy(routed, {id(parameter): parameter for parameter in routed.parameters()})
    for path, family in find_blocks(base).items():
        model.set_submodule(f"{path}.{family.mlp.replaced}", Computed(functions[path]))
    return model


def make_case(what, model, B, T, passes, at_most=None):
    """Embeddings, norms and heads are left out: they are small."""
    N, D, layers = model.tokens, model.config.hidden_size, model.config.num_hidden_layers
    F = 4 * D
    rest = work.attention(B, N, D) * layers * min(passes, 2)
    routed = (work.mlp(B, N, D, F, T) + work.router(B, N, D)) * layers * passes
    plain = work.mlp(1, B * N, D, F) * layers * min(passes, 2)
    return Case(
        f"{model} {what}, B={B} N={N} T={T}",
        rest + routed,
        {"plain": rest + plain},
        ours="model",
        at_most=at_most,
        binding=THREADS == 1,
    )


def check(outputs, bound):
    for name in ("model", "vectorised"):
        for found, expected in zip(outputs[name], outputs["loop"], strict=True):
            assert torch.dist(found, expected) <= bound * expected.norm()


@pytest.mark.parametrize("model", [pytest.param(CLIP, marks=pytest.mark.guard), MINILM, GPT2], ids=str)
def test_inference(compare, model):
    B, T = model.inference_batch, model.inference_tasks
    x = torch.randn(B, *model.sample)

    def infer(method):
        return (method(**{model.argument: x}).last_hidden_state,)

    methods = {name: partial(infer, method) for name, method in make_models(model, T).items()}
    case = make_case("inference", model, B, T, passes=1, at_most=INFERENCE_BOUNDS.get(model.name))
    with torch.no_grad():
        # the roundings of one op (wemoe_ext.testing), and of 6 or 12 layers on top of each other
        compare(case, methods, partial(check, bound=1e-5))


@pytest.mark.parametrize("model", [CLIP, MINILM], ids=str)
def test_adaptation_step(compare, model):
    """Forward, entropy of a frozen head, gradients of the routers, Adam; of the plain model, the input's gradient.

    The learning rate is 0: every step starts from the same routers.
    """
    B, T = model.adaptation_batch, model.adaptation_tasks
    x = torch.randn(B, *model.sample)
    head = nn.Linear(model.config.hidden_size, CLASSES).requires_grad_(False)

    def step(method, leaves):
        hidden_states = method(**{model.argument: leaves[0] if method is base else x}).last_hidden_state
        loss = mean_entropy(head(hidden_states[:, 0]))
        gradients = torch.autograd.grad(loss, leaves)
        if method is not base:
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            optimizer.step()
        return gradients

    methods = make_models(model, T)
    base = methods["plain"]
    routers = [parameter for parameter in methods["model"].parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(routers, lr=0.0)
    for parameter in routers:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the optimiser's state, which would count as memory of the method that comes first
    leaves = dict.fromkeys(methods, routers) | {"plain": [x.clone().requires_grad_()]}
    # A router's ReLU is open in one method and shut in another where rounding decides: some tokens in a million.
    steps = {name: partial(step, method, leaves[name]) for name, method in methods.items()}
    compare(make_case("adaptation step", model, B, T, passes=3), steps, partial(check, bound=1e-2))
