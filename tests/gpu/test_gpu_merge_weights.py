"""merge_weights on CUDA: exact but for rounding, forward and backward, in every dtype, shape and layout."""

import pytest
import torch

from on_gpu import DEVICE, Exact, assert_rounding_explains, move, to_gpu
from routed import check_op
from wemoe_ext import merge_weights, reference
from wemoe_ext.testing import DTYPES, merge_weights_inputs

# A scalar; tails of every length of a piece of 16 bytes; several blocks; many routes and tasks; nothing of something.
SIZES = [
    ((), 2, 3),
    ((1,), 1, 1),
    *(((64 + tail,), 2, 3) for tail in range(16)),
    ((7, 9, 11), 9, 4),
    ((130, 130), 2, 9),
    ((300, 301), 70, 20),
    ((1024, 1025), 1, 8),
    ((0, 5), 3, 2),
    ((4, 5), 0, 2),
]
sizes = pytest.mark.parametrize(
    ("base", "R", "T"), SIZES, ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_exact(inputs):
    """Asserts that merged parameters and the gradient of the routing weights are exact but for rounding.

    Nothing is rounded before it is merged, so only sums and the result are; the gradient sums as many products as there
    are parameters.
    """
    on_gpu = to_gpu(inputs)
    exact = type(inputs)(*(move(tensor, "cpu", torch.float64) for tensor in inputs))
    grad = torch.randn(inputs.routing_weights.shape[0], *inputs.base.shape).to(inputs.base.dtype)
    found, expected = [
        with_gradient(function, arguments, grad.to(arguments.base))
        for function, arguments in ((merge_weights, on_gpu), (reference.merge_weights, exact))
    ]
    (R, T), P = inputs.routing_weights.shape, inputs.base.numel()
    squares = grad.double().reshape(R, P).square() @ exact.task_vectors.reshape(T, P).square().T
    spreads = (torch.zeros_like(expected[0]), squares.sqrt())
    assert found[0].dtype == inputs.base.dtype
    assert found[1].dtype == inputs.routing_weights.dtype
    for name, result, value, spread in zip(("merged", "grad"), found, expected, spreads, strict=True):
        assert_rounding_explains(name, result, Exact(value, spread), inputs.base.dtype, rounding=0)


def with_gradient(function, inputs, grad):
    routing_weights = inputs.routing_weights.detach().requires_grad_()
    merged = function(*inputs._replace(routing_weights=routing_weights))
    return merged.detach(), *torch.autograd.grad(merged, routing_weights, grad)


@sizes
@dtypes
def test_result_and_gradient_are_exact_but_for_rounding(base, R, T, dtype):
    assert_exact(merge_weights_inputs(base, R, T, dtype))


@pytest.mark.parametrize("expert_dtype", DTYPES, ids=str)
@dtypes
def test_task_vectors_may_have_another_dtype(dtype, expert_dtype):
    assert_exact(merge_weights_inputs((33, 65), 3, 5, dtype, expert_dtype))


@dtypes
def test_routing_weights_may_have_another_dtype(dtype):
    inputs = merge_weights_inputs((33, 65), 3, 5, dtype)
    assert_exact(inputs._replace(routing_weights=torch.randn(3, 5)))


def transposed(tensor):
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def misaligned(tensor):
    """Contiguous, from the second number of a buffer on: no multiple of 16 bytes."""
    view = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)[1:].view(tensor.shape)
    assert view.data_ptr() % 16
    return view.copy_(tensor)


@pytest.mark.parametrize("layout", [transposed, misaligned])
@pytest.mark.parametrize("name", ["base", "task_vectors", "routing_weights"])
@dtypes
def test_any_strides_and_any_alignment(name, layout, dtype):
    inputs = to_gpu(merge_weights_inputs((40, 56), 3, 5, dtype))
    assert_exact(inputs._replace(**{name: layout(getattr(inputs, name))}))


def test_gradcheck():
    base, task_vectors, routing_weights = to_gpu(merge_weights_inputs((4, 5), 3, 2, torch.float64))

    def function(routing_weights):
        return merge_weights(base, task_vectors, routing_weights)

    torch.autograd.gradcheck(function, routing_weights.requires_grad_())


@pytest.mark.parametrize("base", [(4, 5), (0, 5), ()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(base, dtype):
    inputs = to_gpu(merge_weights_inputs(base, 3, 2, dtype))
    inputs.routing_weights.requires_grad_()
    check_op(torch.ops.wemoe.merge_weights.default, tuple(inputs))


def test_opcheck_of_backward():
    grad, task_vectors = torch.randn(3, 4, 5, device=DEVICE), torch.randn(2, 4, 5, device=DEVICE)
    check_op(torch.ops.wemoe.merge_weights_backward.default, (grad, task_vectors))
