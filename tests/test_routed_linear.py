"""routed_linear: equal to its reference, differentiable, traceable, frugal, and plain about bad input."""

import inspect

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from routed import assert_matches_reference, check_op, composite_routed_linear, with_gradients
from wemoe_ext import ops, reference, routed_linear
from wemoe_ext.testing import DTYPES, SHAPES, Shape, assert_close, peak_bytes, routed_linear_inputs

SMALL = Shape(R=3, M=2, D=5, F=4, T=2)
USUAL = Shape(R=5, M=9, D=70, F=90, T=3)

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


implementations = pytest.mark.parametrize(
    "implementation", [routed_linear, composite_routed_linear], ids=["cpu", "composite"]
)


def test_reference_has_the_same_signatures():
    for name in ("routed_linear", "merge_weights"):
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))


@implementations
@dtypes
@shapes
def test_matches_reference(implementation, shape, dtype):
    assert_matches_reference(implementation, routed_linear_inputs(shape, dtype))


@implementations
@pytest.mark.parametrize("expert_dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_task_vectors_may_have_another_dtype(implementation, dtype, expert_dtype):
    assert_matches_reference(implementation, routed_linear_inputs(USUAL, dtype, expert_dtype))


@implementations
@dtypes
def test_input_may_have_another_dtype_than_all_weights(implementation, dtype):
    inputs = routed_linear_inputs(USUAL, torch.float32)
    assert_matches_reference(implementation, inputs._replace(x=inputs.x.to(dtype)))


@implementations
def test_no_bias(implementation):
    assert_matches_reference(implementation, routed_linear_inputs(USUAL, bias=False))


@implementations
def test_bias_without_task_biases(implementation):
    assert_matches_reference(implementation, routed_linear_inputs(USUAL)._replace(task_biases=None))


def column_major(tensor):
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def every_other(tensor):
    return tensor.repeat_interleave(2, dim=-1)[..., ::2]


def reversed_order(tensor):
    """All dimensions laid out back to front."""
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


@implementations
@pytest.mark.parametrize("layout", [column_major, every_other, reversed_order])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides(implementation, layout, dtype):
    inputs = routed_linear_inputs(USUAL, dtype)
    strided = inputs._replace(
        x=layout(inputs.x),
        weight=layout(inputs.weight),
        task_vectors=layout(inputs.task_vectors),
        routing_weights=layout(inputs.routing_weights),
        task_biases=layout(inputs.task_biases),
    )
    assert_matches_reference(implementation, strided)


@implementations
def test_expanded_gradient(implementation):
    inputs = routed_linear_inputs(USUAL)
    gradients = []
    for function in (implementation, reference.routed_linear):
        x = inputs.x.detach().requires_grad_()
        function(*inputs._replace(x=x)).sum().backward()  # the gradient of a sum has strides of 0
        gradients.append(x.grad)
    assert_close("grad_x", *gradients)


@pytest.mark.parametrize("shape", [SMALL, Shape(1, 1, 1, 1, 1), Shape(2, 3, 20, 17, 3)], ids=str)
def test_gradcheck(shape):
    inputs = routed_linear_inputs(shape, torch.float64)

    def function(x, routing_weights):
        return routed_linear(*inputs._replace(x=x, routing_weights=routing_weights))

    torch.autograd.gradcheck(function, (inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_()))


@pytest.mark.parametrize("shape", [SMALL, *SHAPES[-4:]], ids=str)
@pytest.mark.parametrize("differentiable", [True, False])
def test_opcheck(shape, differentiable):
    inputs = routed_linear_inputs(shape)
    if differentiable:
        inputs.x.requires_grad_()
        inputs.routing_weights.requires_grad_()
    check_op(torch.ops.wemoe.routed_linear.default, tuple(inputs))


@pytest.mark.parametrize("output_mask", [[True, True], [True, False], [False, True], [False, False]])
def test_opcheck_of_backward(output_mask):
    x, weight, task_vectors, routing_weights, _, task_biases = routed_linear_inputs(SMALL)
    grad = torch.randn(SMALL.R, SMALL.M, SMALL.F)
    arguments = (grad, x, weight, task_vectors, routing_weights, task_biases, output_mask)
    check_op(torch.ops.wemoe.routed_linear_backward.default, arguments)


@pytest.mark.parametrize("needed", ["x", "routing_weights"])
def test_computes_only_the_gradients_that_are_needed(needed):
    inputs = routed_linear_inputs(SMALL)
    leaf = getattr(inputs, needed).requires_grad_()
    with RecordedOps() as recorded:
        routed_linear(*inputs).sum().backward()
    masks = [arguments[-1] for op, arguments in recorded.calls if op == "wemoe.routed_linear_backward.default"]
    assert masks == [[needed == "x", needed == "routing_weights"]]
    assert leaf.grad is not None


class RecordedOps(TorchDispatchMode):
    """Remembers every op that runs, with its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((str(func), args))
        return func(*args, **(kwargs or {}))


@dtypes
def test_a_route_does_not_depend_on_the_batch(dtype):
    inputs = routed_linear_inputs(Shape(R=19, M=13, D=150, F=100, T=5), dtype)
    together = with_gradients(routed_linear, inputs)
    grad = torch.linspace(-1, 2, together[0].numel()).view_as(together[0]).to(dtype)
    for r in (0, 7, 18):
        x = inputs.x[r : r + 1].detach().requires_grad_()
        routing_weights = inputs.routing_weights[r : r + 1].detach().requires_grad_()
        y = routed_linear(*inputs._replace(x=x, routing_weights=routing_weights))
        alone = y, *torch.autograd.grad(y, (x, routing_weights), grad[r : r + 1])
        for name, one, all_ in zip(("y", "grad_x", "grad_routing_weights"), alone, together, strict=True):
            assert torch.equal(one[0], all_[r]), name


@pytest.mark.parametrize("shape", [Shape(19, 13, 150, 100, 5), Shape(1, 9000, 20, 30, 3)], ids=str)
def test_does_not_depend_on_the_number_of_threads(shape):
    inputs = routed_linear_inputs(shape)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(with_gradients(routed_linear, inputs))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


def test_one_hot_routing_gives_the_expert():
    inputs = routed_linear_inputs(Shape(R=3, M=4, D=40, F=50, T=3))
    y = routed_linear(*inputs._replace(routing_weights=torch.eye(3)))
    for t in range(3):
        weight, bias = inputs.weight + inputs.task_vectors[t], inputs.bias + inputs.task_biases[t]
        assert_close(f"expert {t}", y[t], torch.nn.functional.linear(inputs.x[t], weight, bias))


def test_zero_routing_weights_give_the_base():
    inputs = routed_linear_inputs(USUAL)
    y = routed_linear(*inputs._replace(routing_weights=torch.zeros(USUAL.R, USUAL.T)))
    assert_close("y", y, torch.nn.functional.linear(inputs.x, inputs.weight, inputs.bias))


def test_order_of_tasks_does_not_matter():
    inputs = routed_linear_inputs(USUAL)
    order = torch.tensor([2, 0, 1])
    permuted = inputs._replace(
        task_vectors=inputs.task_vectors[order],
        routing_weights=inputs.routing_weights[:, order],
        task_biases=inputs.task_biases[order],
    )
    assert_close("y", routed_linear(*permuted), routed_linear(*inputs))


def test_infinite_and_missing_numbers_pass_through():
    inputs = routed_linear_inputs(USUAL, torch.float16)
    inputs.x[0, 0, 0], inputs.x[1, 1, 1] = float("inf"), float("nan")
    y, expected = routed_linear(*inputs), reference.routed_linear(*inputs)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_precision_number_is_read_and_written_exactly(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    numbers = every[every.isfinite()].view(-1, 1, 1)
    count = numbers.shape[0]
    y = routed_linear(numbers, torch.ones(1, 1), torch.zeros(1, 1, 1), torch.zeros(count, 1))
    assert torch.equal(y, numbers)


def test_half_precision_rounds_to_nearest_even_and_overflows_to_infinity():
    numbers = torch.cat([torch.randn(2000) * 10.0**e for e in range(-9, 6)]).view(1, 1, -1)
    ties = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 3 * 2**-25, 65519.996, 65520.0, 2**-15 + 2**-25])
    weight = torch.cat([numbers.flatten(), ties, -ties]).view(-1, 1)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.ones(1, 1, 1, dtype=dtype)
        y = routed_linear(x, weight, torch.zeros(1, *weight.shape), torch.zeros(1, 1))
        assert torch.equal(y.flatten(), weight.flatten().to(dtype))


def test_autocast_casts_the_input_and_no_weight():
    inputs = routed_linear_inputs(USUAL)
    with RecordedOps() as recorded, torch.autocast("cpu", torch.bfloat16):
        y = routed_linear(*inputs)
    assert y.dtype == torch.bfloat16
    cast = sum(args[0].numel() for op, args in recorded.calls if "_to_copy" in op)
    assert cast == inputs.x.numel()
    assert_close("y", y, reference.routed_linear(*inputs._replace(x=inputs.x.bfloat16())))


def test_autocast_keeps_float64():
    with torch.autocast("cpu", torch.bfloat16):
        assert routed_linear(*routed_linear_inputs(SMALL, torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", ["weight", "task_vectors", "bias", "task_biases"])
def test_gradient_of_a_frozen_argument_is_an_error(name):
    inputs = routed_linear_inputs(SMALL)
    getattr(inputs, name).requires_grad_()
    with pytest.raises(RuntimeError, match=f"routed_linear: `{name}` is frozen"):
        routed_linear(*inputs)
    with torch.no_grad():
        routed_linear(*inputs)


def test_double_backward_is_an_error():
    inputs = routed_linear_inputs(SMALL)
    x = inputs.x.requires_grad_()
    (grad,) = torch.autograd.grad(routed_linear(*inputs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="routed_linear: has no second derivative"):
        grad.sum().backward()


bad_inputs = pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(3, 5)}, ValueError, r"`x` must have shape \[R, M, D = 5\]. Found \[3, 5\]"),
        ({"x": torch.ones(3, 2, 6)}, ValueError, r"`x` must have shape \[R, M, D = 5\]. Found \[3, 2, 6\]"),
        ({"weight": torch.ones(5)}, ValueError, r"`weight` must have shape \[F, D\]. Found \[5\]"),
        (
            {"task_vectors": torch.ones(2, 4, 6)},
            ValueError,
            r"`task_vectors` must have shape \[T, F = 4, D = 5\]. Found \[2, 4, 6\]",
        ),
        ({"task_vectors": torch.ones(0, 4, 5)}, ValueError, "`task_vectors` must hold at least one task"),
        (
            {"routing_weights": torch.ones(2, 2)},
            ValueError,
            r"`routing_weights` must have shape \[R = 3, T = 2\]. Found \[2, 2\]",
        ),
        ({"bias": torch.ones(5)}, ValueError, r"`bias` must have shape \[F = 4\]. Found \[5\]"),
        (
            {"task_biases": torch.ones(1, 4)},
            ValueError,
            r"`task_biases` must have shape \[T = 2, F = 4\]. Found \[1, 4\]",
        ),
        ({"bias": None}, ValueError, "`task_biases` need a `bias` that they add to. Found None"),
        ({"x": torch.ones(3, 2, 5, dtype=torch.int64)}, TypeError, "`x` must be float32, .* Found Long"),
        (
            {"weight": torch.ones(4, 5, dtype=torch.complex64)},
            TypeError,
            "`weight` must be float32, .* Found ComplexFloat",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)


@bad_inputs
@implementations
def test_bad_input(implementation, change, error, message):
    with pytest.raises(error, match="routed_linear: " + message):
        implementation(*routed_linear_inputs(SMALL)._replace(**change))


@bad_inputs
def test_bad_input_while_tracing(change, error, message):
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(error, match="routed_linear: " + message):
        routed_linear(*routed_linear_inputs(SMALL)._replace(**change))


def test_tensors_on_different_devices():
    inputs = routed_linear_inputs(SMALL)
    with pytest.raises(ValueError, match=r"`weight` must be on the device of `x`, cpu\. Found meta"):
        routed_linear(*inputs._replace(weight=inputs.weight.to("meta")))


def test_meta_device_gives_the_shape():
    inputs = routed_linear_inputs(SMALL)
    y = routed_linear(*(tensor.to("meta") for tensor in inputs))
    assert y.is_meta
    assert y.shape == (SMALL.R, SMALL.M, SMALL.F)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    inputs = routed_linear_inputs(USUAL)
    compiled = torch.compile(routed_linear, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual, expected = with_gradients(compiled, inputs), with_gradients(routed_linear, inputs)
    assert all(torch.equal(one, same) for one, same in zip(actual, expected, strict=True))


def test_compiles_under_autocast():
    inputs = routed_linear_inputs(USUAL)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(routed_linear, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*inputs), routed_linear(*inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # inductor's own imports
def test_compiles_with_inductor():
    inputs = routed_linear_inputs(USUAL)
    compiled = torch.compile(routed_linear, fullgraph=True)
    actual, expected = with_gradients(compiled, inputs), with_gradients(routed_linear, inputs)
    assert all(torch.equal(one, same) for one, same in zip(actual, expected, strict=True))


def test_merged_weights_never_exist_in_memory():
    torch.set_num_threads(1)
    R, M, D, F, _ = shape = Shape(R=32, M=2, D=512, F=1024, T=2)
    inputs = routed_linear_inputs(shape)
    inputs.x.requires_grad_()
    inputs.routing_weights.requires_grad_()
    merged_weights = 4 * R * F * D
    # Inputs and outputs packed and in gradients, and the tiles of one thread: a few megabytes.
    bound = 4 * 4 * R * M * (D + F) + 2 * 2**20
    assert bound < merged_weights / 16
    assert peak_bytes(lambda: routed_linear(*inputs).sum().backward()) <= bound
    assert peak_bytes(lambda: reference.routed_linear(*inputs)) >= merged_weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        Shape(R=256, M=1, D=512, F=320, T=20),
        Shape(R=2, M=577, D=4096, F=64, T=4),
        Shape(R=100, M=50, D=96, F=80, T=3),
        Shape(R=1, M=3000, D=256, F=4096, T=1),
    ],
    ids=str,
)
def test_sizes_of_models_match_the_reference(shape):
    assert_matches_reference(routed_linear, routed_linear_inputs(shape))
