"""routed_linear in its implementations, with its gradients; shared by the tests of the op and of its packed forms."""

import warnings

import torch
from torch.library import opcheck

from wemoe_ext import SparseTaskVectors, pack_sparse_task_vectors, pack_task_vectors, reference
from wemoe_ext.testing import assert_close, routed_linear_inputs

FORMS = {"dense": pack_task_vectors, "sparse": pack_sparse_task_vectors}


def pruned_inputs(shape, dtype=torch.float32, expert_dtype=None):
    """Sample inputs of which every tenth number of the task vectors is kept."""
    inputs = routed_linear_inputs(shape, dtype, expert_dtype)
    return inputs._replace(task_vectors=inputs.task_vectors * (torch.rand(inputs.task_vectors.shape) < 0.1))


def packed(inputs, form):
    weight, task_vectors = FORMS[form](inputs.weight, inputs.task_vectors)
    return inputs._replace(weight=weight, task_vectors=task_vectors)


def composite_routed_linear(x, weight, task_vectors, routing_weights, bias, task_biases):
    """The implementation of devices without kernels of their own, on the CPU, with its own gradient."""
    sparse = isinstance(task_vectors, SparseTaskVectors)
    name = "routed_linear_sparse" if sparse else "routed_linear"
    weights = (weight, *task_vectors) if sparse else (weight, task_vectors)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, routing_weights):
            ctx.save_for_backward(x, routing_weights)
            return call_composite(name, x, *weights, routing_weights, bias, task_biases)

        @staticmethod
        def backward(ctx, grad):
            x, routing_weights = ctx.saved_tensors
            arguments = (grad, x, *weights, routing_weights, task_biases, list(ctx.needs_input_grad))
            return call_composite(f"{name}_backward", *arguments)

    return Function.apply(x, routing_weights)


def call_composite(name, *arguments):
    op = getattr(torch.ops.wemoe, name).default
    return op._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)


def with_gradients(function, inputs):
    """Output, gradient of x and gradient of the routing weights, for a gradient that tells elements apart."""
    x = inputs.x.detach().requires_grad_()
    routing_weights = inputs.routing_weights.detach().requires_grad_()
    y = function(*inputs._replace(x=x, routing_weights=routing_weights))
    grad = torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, routing_weights), grad)


def assert_matches_reference(function, inputs):
    actual, expected = with_gradients(function, inputs), with_gradients(reference.routed_linear, inputs)
    for name, result, truth in zip(("y", "grad_x", "grad_routing_weights"), actual, expected, strict=True):
        assert_close(name, result, truth)


def check_op(op, arguments):
    """torch's own checks of an op; they read gradients of tensors that are no leaves, which warns (torch 2.14)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attribute of a Tensor that is not a leaf", category=UserWarning)
        opcheck(op, arguments)
