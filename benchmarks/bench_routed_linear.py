"""routed_linear against a loop over samples, vectorised PyTorch, and a plain linear layer.

Everything is a multiple of the plain linear, whose weights are the same for all samples: what per-sample weights
cost. Each method is compared with the reference before it is timed.
"""

import pytest
import torch
from torch.nn import functional

from wemoe_ext import reference, routed_linear
from wemoe_ext.testing import Shape, assert_close, routed_linear_inputs

# The MLP of ViT-B/32 up and down, of ViT-B/16, a large batch, and batch-averaged routing.
SHAPES = (
    Shape(R=16, M=50, D=768, F=3072, T=8),
    Shape(R=16, M=50, D=3072, F=768, T=8),
    Shape(R=4, M=197, D=768, F=3072, T=8),
    Shape(R=64, M=50, D=768, F=3072, T=8),
    Shape(R=1, M=800, D=768, F=3072, T=8),
)


def loop(x, weight, task_vectors, routing_weights, bias, task_biases):
    """One sample at a time: merge its weights, apply them."""
    return torch.stack(
        [
            functional.linear(
                sample,
                weight + torch.tensordot(weights, task_vectors, 1),
                bias + torch.tensordot(weights, task_biases, 1),
            )
            for sample, weights in zip(x, routing_weights, strict=True)
        ]
    )


def vectorised(x, weight, task_vectors, routing_weights, bias, task_biases):
    """All merged weights by one matrix product, all samples by one batched product."""
    F, D = weight.shape
    merged = torch.addmm(weight.view(1, -1), routing_weights, task_vectors.flatten(1)).view(-1, F, D)
    merged_bias = torch.addmm(bias[None], routing_weights, task_biases)
    return torch.baddbmm(merged_bias[:, None], x, merged.transpose(1, 2))


def plain(x, weight, task_vectors, routing_weights, bias, task_biases):
    return functional.linear(x, weight, bias)


METHODS = (plain, routed_linear, vectorised, loop)


def check(method, inputs):
    if method is plain:
        inputs = inputs._replace(routing_weights=torch.zeros_like(inputs.routing_weights))
    assert_close("y", method(*inputs), reference.routed_linear(*inputs))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_forward(time_method, method, shape):
    inputs = routed_linear_inputs(shape)
    check(method, inputs)
    time_method(f"forward {shape}", method.__name__, lambda: method(*inputs))


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_forward_and_backward(time_method, method, shape):
    """With the gradients of the input and, where there are any, of the routing weights."""
    inputs = routed_linear_inputs(shape)
    check(method, inputs)
    inputs.x.requires_grad_()
    inputs.routing_weights.requires_grad_()
    leaves = (inputs.x,) if method is plain else (inputs.x, inputs.routing_weights)
    grad = torch.randn(shape.R, shape.M, shape.F)
    time_method(
        f"forward and backward {shape}",
        method.__name__,
        lambda: torch.autograd.grad(method(*inputs), leaves, grad),
    )


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: method.__name__)
def test_forward_bfloat16(time_method, method):
    inputs = routed_linear_inputs(SHAPES[0], torch.bfloat16)
    check(method, inputs)
    time_method(f"forward bfloat16 {SHAPES[0]}", method.__name__, lambda: method(*inputs))
