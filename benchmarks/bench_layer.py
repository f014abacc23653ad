"""The whole layer, router included, against the plain MLP that it replaces, vectorised PyTorch and a loop over samples.

`vectorised` assembles the weights of the whole batch in one matrix product and multiplies in another: what PyTorch does
best, at the price of B merged MLPs in memory. `loop` is what published code does.
"""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from wemoe import WeightEnsemblingMoE
from wemoe_ext.testing import assert_close

D, F, T = 768, 3072, 8  # ViT-B/32 and B/16, BERT-base
BATCHES = [(16, 50), (4, 197), (1, 50)]  # B, N
METHODS = ["plain", "layer", "vectorised", "loop"]


def make_methods(batch_reduce=False):
    base = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D)).requires_grad_(False)
    experts = [copy.deepcopy(base) for _ in range(T)]
    for parameter in (parameter for expert in experts for parameter in expert.parameters()):
        parameter += 0.01 * torch.randn_like(parameter)
    layer = WeightEnsemblingMoE(D, base, experts, batch_first=True, batch_reduce=batch_reduce)
    router = layer.mlp.router
    task_vectors = {
        name: torch.stack([expert.get_parameter(name) - parameter for expert in experts])
        for name, parameter in base.named_parameters()
    }

    def routing_weights(x):
        weights = router(x)
        return weights.mean(dim=0, keepdim=True) if batch_reduce else weights  # [R, T]

    def vectorised(x):
        lambdas = routing_weights(x)
        routes = x.view(len(lambdas), -1, D)  # [R, M, D]

        def linear(x, name):
            weight, bias = base.get_parameter(f"{name}.weight"), base.get_parameter(f"{name}.bias")
            merged = torch.addmm(weight.flatten(), lambdas, task_vectors[f"{name}.weight"].flatten(1))
            merged_bias = torch.addmm(bias, lambdas, task_vectors[f"{name}.bias"]).unsqueeze(1)
            return torch.baddbmm(merged_bias, x, merged.view(-1, *weight.shape).transpose(1, 2))

        return linear(base[1](linear(routes, "0")), "2").view(x.shape)

    def loop(x):
        outputs = []
        for sample, lambdas in zip(x, routing_weights(x).expand(len(x), T), strict=True):
            merged = {
                name: parameter + torch.tensordot(lambdas, task_vectors[name], 1)
                for name, parameter in base.named_parameters()
            }
            outputs.append(functional_call(base, merged, sample))
        return torch.stack(outputs)

    return {"plain": base, "layer": layer, "vectorised": vectorised, "loop": loop}, router


def check(methods, x):
    for method in ("layer", "vectorised"):
        assert_close(f"y of {method}", methods[method](x), methods["loop"](x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("B", "N"), BATCHES)
def test_forward(time_method, method, B, N):
    methods, _ = make_methods()
    x = torch.randn(B, N, D)
    with torch.no_grad():
        check(methods, x)
        time_method(f"layer forward B{B}-N{N}-D{D}-F{F}-T{T}", method, lambda: methods[method](x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("B", "N"), BATCHES[:1])
def test_batch_averaged_forward(time_method, method, B, N):
    methods, _ = make_methods(batch_reduce=True)
    x = torch.randn(B, N, D)
    with torch.no_grad():
        check(methods, x)
        time_method(f"layer forward, batch-averaged B{B}-N{N}-D{D}-F{F}-T{T}", method, lambda: methods[method](x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("B", "N"), BATCHES[:1])
def test_forward_and_backward(time_method, method, B, N):
    """With the gradients of the input and of all router parameters; of the plain MLP, that of the input."""
    methods, router = make_methods()
    x = torch.randn(B, N, D, requires_grad=True)
    grad = torch.randn(B, N, D)

    def gradients(method):
        leaves = [x] if method == "plain" else [x, *router.parameters()]
        return torch.autograd.grad(methods[method](x), leaves, grad)

    for other in ("layer", "vectorised"):
        for found, expected in zip(gradients(other), gradients("loop"), strict=True):
            # a routing weight's gradient sums 4.7 million products, whose signs cancel to about 1 in 1000
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    time_method(f"layer forward and backward B{B}-N{N}-D{D}-F{F}-T{T}", method, lambda: gradients(method))
