"""merge_weights: equal to its reference, differentiable, traceable, and plain about bad input."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from routed import check_op
from wemoe_ext import merge_weights, reference
from wemoe_ext.testing import DTYPES, assert_close, merge_weights_inputs

# base, R, T: a scalar, tails of every length, more than one block and partial sum, nothing of something.
SIZES = [
    ((), 2, 3),
    ((1,), 1, 1),
    ((33,), 3, 2),
    ((7, 9, 11), 9, 4),
    ((130, 130), 2, 9),
    ((300, 301), 3, 2),
    ((0, 5), 3, 2),
    ((4, 5), 0, 2),
]
sizes = pytest.mark.parametrize(
    ("base", "R", "T"), SIZES, ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def call_composite(name, *arguments):
    op = getattr(torch.ops.wemoe, name).default
    return op._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)


def composite_merge_weights(*arguments):
    """The implementation of devices without kernels of their own, on the CPU, with its own gradient."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, base, task_vectors, routing_weights):
            ctx.save_for_backward(task_vectors)
            return call_composite("merge_weights", base, task_vectors, routing_weights)

        @staticmethod
        def backward(ctx, grad):
            return None, None, call_composite("merge_weights_backward", grad, *ctx.saved_tensors)

    return Function.apply(*arguments)


implementations = pytest.mark.parametrize(
    "implementation", [merge_weights, composite_merge_weights], ids=["cpu", "composite"]
)


def with_gradient(function, inputs):
    """Output and gradient of the routing weights, for a gradient that tells elements apart."""
    routing_weights = inputs.routing_weights.detach().requires_grad_()
    merged = function(*inputs._replace(routing_weights=routing_weights))
    grad = torch.linspace(-1, 2, merged.numel()).view_as(merged).to(merged.dtype)
    return merged.detach(), *torch.autograd.grad(merged, routing_weights, grad)


def assert_matches_reference(function, inputs):
    actual, expected = with_gradient(function, inputs), with_gradient(reference.merge_weights, inputs)
    for name, result, truth in zip(("merged", "grad_routing_weights"), actual, expected, strict=True):
        assert_close(name, result, truth)


@implementations
@dtypes
@sizes
def test_matches_reference(implementation, base, R, T, dtype):
    assert_matches_reference(implementation, merge_weights_inputs(base, R, T, dtype))


@implementations
@pytest.mark.parametrize("expert_dtype", [torch.bfloat16, torch.float64], ids=str)
@dtypes
def test_task_vectors_may_have_another_dtype(implementation, dtype, expert_dtype):
    assert_matches_reference(implementation, merge_weights_inputs((40, 50), 3, 2, dtype, expert_dtype))


@implementations
def test_any_strides(implementation):
    inputs = merge_weights_inputs((20, 30), 3, 2)
    strided = inputs._replace(
        base=inputs.base.t().contiguous().t(),
        task_vectors=inputs.task_vectors.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        routing_weights=inputs.routing_weights.t().contiguous().t(),
    )
    assert_matches_reference(implementation, strided)


@implementations
def test_expanded_gradient(implementation):
    inputs = merge_weights_inputs((20, 30), 3, 2)
    gradients = []
    for function in (implementation, reference.merge_weights):
        routing_weights = inputs.routing_weights.detach().requires_grad_()
        function(*inputs._replace(routing_weights=routing_weights)).sum().backward()
        gradients.append(routing_weights.grad)
    assert_close("grad_routing_weights", *gradients)


def test_hand_worked_values():
    base = torch.tensor([[1.0, 2.0]])
    task_vectors = torch.tensor([[[1.0, 0.0]], [[0.0, 10.0]]])
    routing_weights = torch.tensor([[0.5, 0.1], [-1.0, 2.0]])
    assert merge_weights(base, task_vectors, routing_weights).tolist() == [[[1.5, 3.0]], [[0.0, 22.0]]]


def test_gradcheck():
    base, task_vectors, routing_weights = merge_weights_inputs((3, 7), 2, 3, torch.float64)
    torch.autograd.gradcheck(
        lambda weights: merge_weights(base, task_vectors, weights), (routing_weights.requires_grad_(),)
    )


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("base", [(), (4, 5), (0, 5)], ids=str)
def test_opcheck(base, differentiable):
    inputs = merge_weights_inputs(base, 3, 2)
    inputs.routing_weights.requires_grad_(differentiable)
    check_op(torch.ops.wemoe.merge_weights.default, tuple(inputs))


def test_opcheck_of_backward():
    check_op(torch.ops.wemoe.merge_weights_backward.default, (torch.randn(3, 4, 5), torch.randn(2, 4, 5)))


def test_a_route_does_not_depend_on_the_batch():
    inputs = merge_weights_inputs((70, 90), 19, 3)
    together = with_gradient(merge_weights, inputs)
    for r in (0, 18):
        alone = merge_weights(*inputs._replace(routing_weights=inputs.routing_weights[r : r + 1]))
        assert torch.equal(alone[0], together[0][r])


def test_does_not_depend_on_the_number_of_threads():
    inputs = merge_weights_inputs((700, 900), 3, 2)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(with_gradient(merge_weights, inputs))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", ["base", "task_vectors"])
def test_gradient_of_a_frozen_argument_is_an_error(name):
    inputs = merge_weights_inputs((4, 5), 3, 2)
    getattr(inputs, name).requires_grad_()
    with pytest.raises(RuntimeError, match=f"merge_weights: `{name}` is frozen"):
        merge_weights(*inputs)


def test_double_backward_is_an_error():
    inputs = merge_weights_inputs((4, 5), 3, 2)
    weights = inputs.routing_weights.requires_grad_()
    (grad,) = torch.autograd.grad(merge_weights(*inputs).square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="merge_weights: has no second derivative"):
        grad.sum().backward()


bad_inputs = pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"task_vectors": torch.ones(2, 4, 6)},
            ValueError,
            r"`task_vectors` must have shape \[T, ...\] over the shape of `base`, \[4, 5\]. Found \[2, 4, 6\]",
        ),
        ({"task_vectors": torch.ones(4, 5)}, ValueError, r"`task_vectors` must have shape .* Found \[4, 5\]"),
        ({"task_vectors": torch.ones(0, 4, 5)}, ValueError, "`task_vectors` must hold at least one task"),
        (
            {"routing_weights": torch.ones(2)},
            ValueError,
            r"`routing_weights` must have shape \[R, T = 2\]. Found \[2\]",
        ),
        ({"base": torch.ones(4, 5, dtype=torch.bool)}, TypeError, "`base` must be float32, .* Found Bool"),
    ],
    ids=["width", "dimensions", "no task", "one route without its dimension", "dtype"],
)


@bad_inputs
def test_bad_input(change, error, message):
    with pytest.raises(error, match="merge_weights: " + message):
        merge_weights(*merge_weights_inputs((4, 5), 3, 2)._replace(**change))


@bad_inputs
def test_bad_input_while_tracing(change, error, message):
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(error, match="merge_weights: " + message):
        merge_weights(*merge_weights_inputs((4, 5), 3, 2)._replace(**change))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    inputs = merge_weights_inputs((40, 50), 3, 2)
    compiled = torch.compile(merge_weights, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual, expected = with_gradient(compiled, inputs), with_gradient(merge_weights, inputs)
    assert all(torch.equal(one, same) for one, same in zip(actual, expected, strict=True))
