"""routed_linear on CUDA, fused and chunked: exact but for rounding, in every dtype, shape and layout."""

import pytest
import torch

from on_gpu import ALL_SHAPES, DEVICE, FUSED_SHAPES, assert_exact, results, to_gpu
from routed import check_op
from wemoe_ext import reference, routed_linear
from wemoe_ext.testing import DTYPES, Shape, routed_linear_inputs

SMALL = Shape(R=3, M=2, D=8, F=16, T=2)
USUAL = Shape(R=5, M=9, D=72, F=96, T=3)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("shape", ALL_SHAPES, ids=str)
def test_output_and_gradients_are_exact_but_for_rounding(path, shape, dtype):
    assert_exact(routed_linear, routed_linear_inputs(shape, dtype))


@dtypes
def test_the_path_is_chosen_by_itself_where_none_is_named(monkeypatch, dtype):
    monkeypatch.delenv("WEMOE_CUDA_ROUTED_LINEAR", raising=False)
    for shape in (USUAL, Shape(R=3, M=5, D=17, F=33, T=3)):
        assert_exact(routed_linear, routed_linear_inputs(shape, dtype))


@pytest.mark.parametrize("expert_dtype", DTYPES, ids=str)
@dtypes
def test_task_vectors_may_have_another_dtype(path, dtype, expert_dtype):
    assert_exact(routed_linear, routed_linear_inputs(USUAL, dtype, expert_dtype))


@dtypes
def test_input_may_have_another_dtype_than_all_weights(path, dtype):
    inputs = routed_linear_inputs(USUAL)
    assert_exact(routed_linear, inputs._replace(x=inputs.x.to(dtype)))


@dtypes
def test_routing_weights_may_be_float32(path, dtype):
    inputs = routed_linear_inputs(USUAL, dtype)
    assert_exact(routed_linear, inputs._replace(routing_weights=torch.randn(USUAL.R, USUAL.T)))


@dtypes
def test_no_bias(path, dtype):
    assert_exact(routed_linear, routed_linear_inputs(USUAL, dtype, bias=False))


@dtypes
def test_bias_without_task_biases(path, dtype):
    assert_exact(routed_linear, routed_linear_inputs(USUAL, dtype)._replace(task_biases=None))


def column_major(tensor):
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def every_other(tensor):
    return tensor.repeat_interleave(2, dim=-1)[..., ::2]


def misaligned(tensor):
    """Contiguous, from the second number of a buffer on: no multiple of 16 bytes."""
    buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    view = buffer[1:].view(tensor.shape)
    assert view.data_ptr() % 16
    return view.copy_(tensor)


def rows_of_wider_rows(tensor):
    """The first columns of a tensor that is three columns wider."""
    return torch.nn.functional.pad(tensor, (0, 3))[..., :-3]


layouts = pytest.mark.parametrize("layout", [column_major, every_other, misaligned, rows_of_wider_rows])


@layouts
@dtypes
def test_any_strides_and_any_alignment(path, layout, dtype):
    inputs = to_gpu(routed_linear_inputs(USUAL, dtype))
    names = ("x", "weight", "task_vectors", "routing_weights", "task_biases")
    assert_exact(routed_linear, inputs._replace(**{name: layout(getattr(inputs, name)) for name in names}))


@pytest.mark.parametrize("name", ["x", "weight", "task_vectors", "routing_weights", "bias", "task_biases"])
def test_one_misaligned_argument_among_aligned_ones(path, name):
    inputs = to_gpu(routed_linear_inputs(USUAL, torch.bfloat16))
    assert_exact(routed_linear, inputs._replace(**{name: misaligned(getattr(inputs, name))}))


@layouts
@dtypes
def test_gradients_of_any_strides_and_alignment(path, layout, dtype):
    grad = torch.randn(USUAL.R, USUAL.M, USUAL.F, device=DEVICE).to(dtype)
    assert_exact(routed_linear, routed_linear_inputs(USUAL, dtype), grad=layout(grad))


@dtypes
def test_expanded_gradient(path, dtype):
    one = torch.ones((), dtype=dtype, device=DEVICE)
    expanded = one.expand(USUAL.R, USUAL.M, USUAL.F)  # the gradient of a sum: all strides are 0
    assert_exact(routed_linear, routed_linear_inputs(USUAL, dtype), grad=expanded)


@pytest.mark.parametrize("shape", [SMALL, Shape(1, 1, 1, 1, 1), Shape(2, 3, 20, 17, 3)], ids=str)
def test_gradcheck(shape):
    inputs = to_gpu(routed_linear_inputs(shape, torch.float64))

    def function(x, routing_weights):
        return routed_linear(*inputs._replace(x=x, routing_weights=routing_weights))

    torch.autograd.gradcheck(function, (inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_()))


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("shape", [SMALL, Shape(R=0, M=3, D=4, F=5, T=1), Shape(R=2, M=3, D=4, F=0, T=1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(path, dtype, shape, differentiable):
    inputs = to_gpu(routed_linear_inputs(shape, dtype))
    if differentiable:
        inputs.x.requires_grad_()
        inputs.routing_weights.requires_grad_()
    check_op(torch.ops.wemoe.routed_linear.default, tuple(inputs))


@pytest.mark.parametrize("output_mask", [[True, True], [True, False], [False, True], [False, False]])
def test_opcheck_of_backward(path, output_mask):
    x, weight, task_vectors, routing_weights, _, task_biases = to_gpu(routed_linear_inputs(SMALL, torch.bfloat16))
    grad = torch.randn(SMALL.R, SMALL.M, SMALL.F, device=DEVICE).bfloat16()
    arguments = (grad, x, weight, task_vectors, routing_weights, task_biases, output_mask)
    check_op(torch.ops.wemoe.routed_linear_backward.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_infinite_and_missing_numbers_stay_in_their_rows(path, dtype):
    inputs = to_gpu(routed_linear_inputs(USUAL, dtype))
    clean = routed_linear(*inputs)
    inputs.x[0, 0, 0], inputs.x[1, 1, 1] = float("inf"), float("nan")
    y, expected = routed_linear(*inputs), reference.routed_linear(*inputs)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    finite = y.isfinite()
    assert torch.equal(y[finite], clean[finite])


def test_one_hot_routing_gives_the_expert(path):
    inputs = routed_linear_inputs(Shape(R=3, M=4, D=40, F=56, T=3))
    assert_exact(routed_linear, inputs._replace(routing_weights=torch.eye(3)))


@pytest.mark.parametrize("shape", FUSED_SHAPES[:8], ids=str)
@pytest.mark.parametrize("needed", ["x", "routing_weights"])
def test_one_gradient_alone_is_that_of_both(path, shape, needed):
    inputs = to_gpu(routed_linear_inputs(shape, torch.bfloat16))
    together = dict(zip(("x", "routing_weights"), results(routed_linear, inputs)[1:], strict=True))
    leaf = getattr(inputs, needed).requires_grad_()
    y = routed_linear(*inputs)
    grad = torch.linspace(-1, 2, y.numel()).view_as(y).to(y)
    (alone,) = torch.autograd.grad(y, leaf, grad)
    assert torch.equal(alone, together[needed])
