"""The whole layer, router included, against the plain MLP that it replaces and a loop over samples."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from wemoe import WeightEnsemblingMoE
from wemoe_ext.testing import assert_close

B, N, D, F, T = 16, 50, 768, 3072, 8  # ViT-B/32


@pytest.fixture
def methods():
    base = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D))
    experts = [copy.deepcopy(base) for _ in range(T)]
    for parameter in (parameter for expert in experts for parameter in expert.parameters()):
        parameter.data += 0.01 * torch.randn_like(parameter)
    layer = WeightEnsemblingMoE(D, base, experts, batch_first=True)
    task_vectors = {
        name: torch.stack([expert.get_parameter(name) - parameter for expert in experts]).detach()
        for name, parameter in base.named_parameters()
    }

    def loop(x):
        outputs = []
        for sample, routing_weights in zip(x, layer.mlp.router(x, None), strict=True):
            merged = {
                name: parameter.detach() + torch.tensordot(routing_weights, task_vectors[name], 1)
                for name, parameter in base.named_parameters()
            }
            outputs.append(functional_call(base, merged, sample))
        return torch.stack(outputs)

    return {"plain": base, "layer": layer, "loop": loop}


@pytest.mark.parametrize("method", ["plain", "layer", "loop"])
def test_forward(time_method, methods, method):
    x = torch.randn(B, N, D)
    with torch.no_grad():
        assert_close("y", methods["layer"](x), methods["loop"](x))
        time_method(f"layer forward B{B}-N{N}-D{D}-F{F}-T{T}", method, lambda: methods[method](x))


@pytest.mark.parametrize("method", ["plain", "layer", "loop"])
def test_forward_and_backward(time_method, methods, method):
    """With the gradients of the input and of the router."""
    x = torch.randn(B, N, D, requires_grad=True)
    leaves = [x] if method == "plain" else [x, *methods["layer"].mlp.router.parameters()]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    grad = torch.randn(B, N, D)
    time_method(
        f"layer forward and backward B{B}-N{N}-D{D}-F{F}-T{T}",
        method,
        lambda: torch.autograd.grad(methods[method](x), leaves, grad),
    )
