"""merge_weights against one matrix product over flat parameters; plain is a copy of what is read and written."""

from functools import partial

import pytest
import torch
from cases import Case, guarded
from work import Work

from wemoe_ext import merge_weights, reference
from wemoe_ext.testing import assert_close, merge_weights_inputs

SIZE = (3072, 768)
T = 8


def vectorised(base, task_vectors, routing_weights):
    merged = torch.addmm(base.view(1, -1), routing_weights, task_vectors.flatten(1))
    return merged.view(-1, *base.shape)


def make_copy(base, task_vectors, routing_weights):
    """As much memory traffic as reading base and task vectors and writing the result, into memory that is there."""
    numbers = (1 + task_vectors.shape[0] + routing_weights.shape[0]) * base.numel() // 2  # each read and written
    source, target = torch.randn(numbers), torch.randn(numbers)
    return lambda: target.copy_(source)


METHODS = {"merge_weights": merge_weights, "vectorised": vectorised}


def make_case(what, R, operations, tensors, **settings):
    """Operations for each parameter and how many tensors of the parameters' size are read or written."""
    P = SIZE[0] * SIZE[1]
    moved = Work(0, 4 * tensors * P)
    return Case(
        f"merge_weights {what} R{R}-T{T}-{SIZE[0]}x{SIZE[1]}",
        Work(operations * P, 0) + moved,
        {"plain": moved},
        ours="merge_weights",
        **settings,
    )


@pytest.mark.parametrize("R", [1, 4])
def test_forward(compare, R):
    """No guard: the output is new memory, which can take four times the rest, as the allocator's past will have it."""
    inputs = merge_weights_inputs(SIZE, R, T)
    methods = {name: partial(method, *inputs) for name, method in METHODS.items()}

    def check(outputs):
        for name in METHODS:
            assert_close(f"merged by {name}", outputs[name], reference.merge_weights(*inputs))

    case = make_case("forward", R, operations=2 * R * T, tensors=1 + T + R)
    compare(case, {"plain": make_copy(*inputs), **methods}, check)


@guarded([1], "R")
def test_forward_and_backward(compare, R):
    """Judged by the matrix product: there is no copy that a gradient could be compared with."""
    inputs = merge_weights_inputs(SIZE, R, T)
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(R, *SIZE)

    def gradient(method):
        return torch.autograd.grad(method(*inputs), inputs.routing_weights, grad)[0]

    def check(outputs):
        # sums of 2.4 million products, whose signs cancel to about 1 in 1000
        error = (outputs["merge_weights"] - outputs["vectorised"]).abs().max()
        assert error <= 1e-4 * outputs["vectorised"].abs().max()

    methods = {name: partial(gradient, method) for name, method in METHODS.items()}
    case = make_case("forward + backward", R, operations=4 * R * T, tensors=1 + 2 * T + 2 * R, over="vectorised")
    compare(case, methods, check)
