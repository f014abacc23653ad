"""routed_linear against a loop over samples, vectorised PyTorch, and a plain linear layer.

Everything is a multiple of the plain linear, whose weights are the same for all samples: what per-sample weights
cost. Each method is compared with the reference before it is timed. Judged are packed weights, as layers keep them;
`unpacked` packs them at every call.
"""

from functools import partial

import pytest
import torch
import work
from cases import Case, guarded
from torch.nn import functional

from wemoe_ext import pack_task_vectors, reference, routed_linear
from wemoe_ext.testing import Shape, assert_close, routed_linear_inputs

# The MLP of ViT-B/32 up and down, batch-averaged routing; of ViT-B/16, and a large batch.
GUARDED = (
    Shape(R=16, M=50, D=768, F=3072, T=8),
    Shape(R=16, M=50, D=3072, F=768, T=8),
    Shape(R=1, M=800, D=768, F=3072, T=8),
)
OTHERS = (
    Shape(R=4, M=197, D=768, F=3072, T=8),
    Shape(R=64, M=50, D=768, F=3072, T=8),
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


METHODS = {"plain": plain, "packed": routed_linear, "unpacked": routed_linear, "vectorised": vectorised, "loop": loop}


def inputs_of(method, inputs):
    if method != "packed":
        return inputs
    weight, task_vectors = pack_task_vectors(inputs.weight, inputs.task_vectors)
    return inputs._replace(weight=weight, task_vectors=task_vectors)


def make_case(what, shape, passes=1, **settings):
    R, M, D, F, _ = shape
    return Case(
        f"routed_linear {what} {shape}",
        work.linear(*shape, **settings) * passes,
        {"plain": work.linear(1, R * M, D, F, **settings) * min(passes, 2)},
        ours="packed",
    )


def check(inputs):
    """A check of every output against the reference; that of the plain linear is the output without task vectors."""
    base = inputs._replace(routing_weights=torch.zeros_like(inputs.routing_weights))

    def run(outputs):
        for name, y in outputs.items():
            assert_close(f"y of {name}", y, reference.routed_linear(*(base if name == "plain" else inputs)))

    return run


def run_forward(compare, shape):
    inputs = routed_linear_inputs(shape)
    methods = {name: partial(method, *inputs_of(name, inputs)) for name, method in METHODS.items()}
    compare(make_case("forward", shape), methods, check(inputs))


@guarded(GUARDED, "shape")
def test_forward(compare, shape):
    run_forward(compare, shape)


@pytest.mark.parametrize("shape", OTHERS, ids=str)
def test_forward_of_other_shapes(compare, shape):
    run_forward(compare, shape)


@guarded(GUARDED[:2], "shape")
def test_forward_and_backward(compare, shape):
    """With the gradients of the input and, where there are any, of the routing weights."""
    inputs = routed_linear_inputs(shape)
    inputs.x.requires_grad_()
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(shape.R, shape.M, shape.F)

    def gradients(method, inputs, leaves):
        return torch.autograd.grad(method(*inputs), leaves, grad)

    def check(outputs):
        for name in ("packed", "unpacked", "vectorised"):
            for found, expected in zip(outputs[name], outputs["loop"], strict=True):
                # a routing weight's gradient sums 2.4 million products, whose signs cancel to about 1 in 1000
                assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()

    leaves = dict.fromkeys(METHODS, (inputs.x, inputs.routing_weights)) | {"plain": (inputs.x,)}
    methods = {
        name: partial(gradients, method, inputs_of(name, inputs), leaves[name]) for name, method in METHODS.items()
    }
    compare(make_case("forward + backward", shape, passes=3), methods, check)


@guarded(GUARDED[:1], "shape")
def test_forward_bfloat16(compare, shape):
    inputs = routed_linear_inputs(shape, torch.bfloat16)
    methods = {name: partial(METHODS[name], *inputs_of(name, inputs)) for name in ("plain", "packed")}
    compare(make_case("forward bfloat16", shape, itemsize=2), methods, check(inputs))
