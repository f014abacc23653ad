"""merge_weights against one matrix product over flat parameters; plain is a copy of what is read and written."""

import pytest
import torch

from wemoe_ext import merge_weights, reference
from wemoe_ext.testing import assert_close, merge_weights_inputs

SIZE = (3072, 768)
T = 8


def addmm(base, task_vectors, routing_weights):
    merged = torch.addmm(base.view(1, -1), routing_weights, task_vectors.flatten(1))
    return merged.view(-1, *base.shape)


def make_copy(base, task_vectors, routing_weights):
    """As much memory traffic as reading base and task vectors and writing the result, into memory that is there."""
    numbers = (1 + task_vectors.shape[0] + routing_weights.shape[0]) * base.numel() // 2  # each read and written
    source, target = torch.randn(numbers), torch.randn(numbers)
    return lambda *_: target.copy_(source)


METHODS = {"merge_weights": merge_weights, "addmm": addmm}


@pytest.mark.parametrize("R", [1, 4])
@pytest.mark.parametrize("method", ["plain", *METHODS])
def test_forward(time_method, method, R):
    inputs = merge_weights_inputs(SIZE, R, T)
    if method == "plain":
        function = make_copy(*inputs)
    else:
        function = METHODS[method]
        assert_close("merged", function(*inputs), reference.merge_weights(*inputs))
    time_method(f"forward R{R}-T{T}-{SIZE[0]}x{SIZE[1]}", method, lambda: function(*inputs))


@pytest.mark.parametrize("method", METHODS)
def test_forward_and_backward(time_method, method):
    inputs = merge_weights_inputs(SIZE, 1, T)
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(1, *SIZE)
    time_method(
        f"forward and backward R1-T{T}-{SIZE[0]}x{SIZE[1]}",
        method,
        lambda: torch.autograd.grad(METHODS[method](*inputs), inputs.routing_weights, grad),
    )
