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


def copy(base, task_vectors, routing_weights):
    """As much memory traffic as reading base and task vectors and writing the result, halved each."""
    numbers = (1 + task_vectors.shape[0] + routing_weights.shape[0]) * base.numel()
    return torch.empty(numbers // 2).copy_(task_vectors.view(-1)[: numbers // 2])


METHODS = {"plain": copy, "merge_weights": merge_weights, "addmm": addmm}


@pytest.mark.parametrize("R", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_forward(time_method, method, R):
    inputs = merge_weights_inputs(SIZE, R, T)
    if method != "plain":
        assert_close("merged", METHODS[method](*inputs), reference.merge_weights(*inputs))
    time_method(f"forward R{R}-T{T}-{SIZE[0]}x{SIZE[1]}", method, lambda: METHODS[method](*inputs))


@pytest.mark.parametrize("method", ["merge_weights", "addmm"])
def test_forward_and_backward(time_method, method):
    inputs = merge_weights_inputs(SIZE, 1, T)
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(1, *SIZE)
    time_method(
        f"forward and backward R1-T{T}-{SIZE[0]}x{SIZE[1]}",
        method,
        lambda: torch.autograd.grad(METHODS[method](*inputs), inputs.routing_weights, grad),
    )
