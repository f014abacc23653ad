"""Packed weights, dense and sparse: the same results to the last bit, and plain about what does not fit."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from routed import (
    FORMS,
    assert_matches_reference,
    check_op,
    composite_routed_linear,
    packed,
    pruned_inputs,
    with_gradients,
)
from wemoe_ext import (
    expand_task_vectors,
    pack_sparse_task_vectors,
    pack_task_vectors,
    routed_linear,
    unpack_task_vectors,
)
from wemoe_ext.testing import DTYPES, Shape, routed_linear_inputs

# Whole and cut panels, tiles and blocks of inputs; one and many routes, rows and tasks; nothing of something.
SHAPES = (
    Shape(R=1, M=1, D=1, F=16, T=1),
    Shape(R=5, M=9, D=70, F=96, T=3),
    Shape(R=9, M=50, D=130, F=64, T=8),
    Shape(R=17, M=3, D=200, F=144, T=9),
    Shape(R=2, M=1100, D=33, F=48, T=2),
    Shape(R=3, M=2, D=300, F=16, T=20),
    Shape(R=2, M=3, D=0, F=16, T=1),
    Shape(R=0, M=3, D=4, F=16, T=1),
    Shape(R=2, M=3, D=4, F=0, T=1),
)
USUAL = SHAPES[1]

forms = pytest.mark.parametrize("form", FORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_packed_comes_back(shape, dtype):
    inputs = pruned_inputs(shape, dtype)
    weight, lines = pack_task_vectors(inputs.weight, inputs.task_vectors)
    assert weight.shape == (shape.F // 16, shape.D, 16)
    assert lines.shape == (shape.F // 16, shape.D, shape.T, 16)
    for found, expected in zip(unpack_task_vectors(weight, lines), inputs[1:3], strict=True):
        assert torch.equal(found, expected)
    again, sparse = pack_sparse_task_vectors(inputs.weight, inputs.task_vectors)
    assert torch.equal(again, weight)
    assert torch.equal(expand_task_vectors(sparse), lines)


def test_a_line_holds_the_outputs_of_one_input():
    weight = torch.arange(32.0 * 3).view(32, 3)
    packed_weight, lines = pack_task_vectors(weight, torch.stack([weight, -weight]))
    assert torch.equal(packed_weight[1, 2], weight[16:, 2])
    assert torch.equal(lines[0, 1], torch.stack([weight[:16, 1], -weight[:16, 1]]))


def test_a_tenth_of_the_numbers_takes_an_eighth_of_the_memory():
    task_vectors = torch.zeros(8, 64, 256)
    task_vectors.flatten()[torch.randperm(task_vectors.numel())[: task_vectors.numel() // 10]] = 1.0
    _, sparse = pack_sparse_task_vectors(torch.zeros(64, 256), task_vectors)
    held = sum(tensor.numel() * tensor.element_size() for tensor in sparse)
    # a tenth of the numbers, a bit for each, and one offset for 32 inputs
    assert held / (4 * task_vectors.numel()) < 0.14


@forms
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weights_give_the_same_to_the_last_bit(shape, dtype, form):
    inputs = pruned_inputs(shape, dtype)
    plain, found = (with_gradients(routed_linear, arguments) for arguments in (inputs, packed(inputs, form)))
    for name, result, expected in zip(("y", "grad_x", "grad_routing_weights"), found, plain, strict=True):
        assert torch.equal(result, expected), name


@forms
@pytest.mark.parametrize("implementation", [routed_linear, composite_routed_linear], ids=["cpu", "composite"])
@pytest.mark.parametrize("expert_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_matches_reference_with_task_vectors_of_another_dtype(dtype, expert_dtype, implementation, form):
    assert_matches_reference(implementation, packed(pruned_inputs(USUAL, dtype, expert_dtype), form))


@forms
def test_full_task_vectors(form):
    assert_matches_reference(routed_linear, packed(routed_linear_inputs(SHAPES[2]), form))


@forms
def test_strided_weights(form):
    arguments = packed(pruned_inputs(USUAL), form)

    def back_to_front(tensor):
        order = tuple(reversed(range(tensor.ndim)))
        return tensor.permute(order).contiguous().permute(order)

    if form == "dense":
        strided = arguments._replace(task_vectors=back_to_front(arguments.task_vectors))
    else:
        masks, _, offsets = arguments.task_vectors
        strided = arguments._replace(
            task_vectors=arguments.task_vectors._replace(masks=back_to_front(masks), offsets=back_to_front(offsets))
        )
    strided = strided._replace(weight=back_to_front(arguments.weight))
    assert torch.equal(routed_linear(*strided), routed_linear(*arguments))


@forms
def test_gradcheck(form):
    inputs = packed(pruned_inputs(Shape(R=2, M=3, D=20, F=16, T=3), torch.float64), form)

    def function(x, routing_weights):
        return routed_linear(*inputs._replace(x=x, routing_weights=routing_weights))

    torch.autograd.gradcheck(function, (inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_()))


def flat(inputs):
    """The arguments of the op itself: its name, and the tensors of sparse task vectors one by one."""
    x, weight, task_vectors, *rest = inputs
    if isinstance(task_vectors, torch.Tensor):
        return "routed_linear", (x, weight, task_vectors, *rest)
    return "routed_linear_sparse", (x, weight, *task_vectors, *rest)


@forms
@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("shape", [USUAL, *SHAPES[-3:]], ids=str)
def test_opcheck(shape, differentiable, form):
    inputs = packed(pruned_inputs(shape), form)
    if differentiable:
        inputs.x.requires_grad_()
        inputs.routing_weights.requires_grad_()
    name, arguments = flat(inputs)
    check_op(getattr(torch.ops.wemoe, name).default, arguments)


@forms
@pytest.mark.parametrize("output_mask", [[True, True], [True, False], [False, True], [False, False]])
def test_opcheck_of_backward(output_mask, form):
    name, (x, *weights, _, task_biases) = flat(packed(pruned_inputs(USUAL), form))
    grad = torch.randn(USUAL.R, USUAL.M, USUAL.F)
    arguments = (grad, x, *weights, task_biases, output_mask)
    check_op(getattr(torch.ops.wemoe, f"{name}_backward").default, arguments)


@forms
def test_compiles_without_a_graph_break(form):
    inputs = packed(pruned_inputs(USUAL), form)
    compiled = torch.compile(routed_linear, fullgraph=True, backend="aot_eager")
    actual, expected = with_gradients(compiled, inputs), with_gradients(routed_linear, inputs)
    assert all(torch.equal(one, same) for one, same in zip(actual, expected, strict=True))


@forms
@pytest.mark.parametrize("shape", [Shape(19, 13, 150, 96, 5), Shape(1, 5000, 20, 32, 3)], ids=str)
def test_does_not_depend_on_the_number_of_threads(shape, form):
    inputs = packed(pruned_inputs(shape), form)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(with_gradients(routed_linear, inputs))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


@forms
@pytest.mark.parametrize(
    ("weight", "task_vectors", "message"),
    [
        (torch.ones(20, 3), torch.ones(2, 20, 3), r"`weight` must have shape \[F, D\] with F a multiple of 16. Found"),
        (torch.ones(16), torch.ones(2, 16), r"`weight` must have shape \[F, D\] with F a multiple of 16. Found \[16\]"),
        (torch.ones(16, 3), torch.ones(16, 3), r"must have shape \[T, F = 16, D = 3\]. Found \[16, 3\]"),
        (torch.ones(16, 3), torch.ones(2, 16, 4), r"must have shape \[T, F = 16, D = 3\]. Found \[2, 16, 4\]"),
    ],
)
def test_what_cannot_be_packed_is_named(form, weight, task_vectors, message):
    with pytest.raises(ValueError, match=message):
        FORMS[form](weight, task_vectors)


def changed(**changes):
    def change(inputs):
        sparse = inputs.task_vectors._replace(
            **{name: edit(getattr(inputs.task_vectors, name)) for name, edit in changes.items() if name != "weight"}
        )
        weight = changes["weight"](inputs.weight) if "weight" in changes else inputs.weight
        return inputs._replace(weight=weight, task_vectors=sparse)

    return change


bad_sparse_inputs = pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed(masks=torch.Tensor.int), TypeError, "`masks` must be Short. Found Int"),
        (changed(masks=lambda m: m[:, 1:]), ValueError, r"`masks` must have shape \[F / 16 = 6, D = 70, T\]. Found"),
        (changed(masks=lambda m: m[..., :0]), ValueError, "must hold at least one task"),
        (changed(values=torch.Tensor.int), TypeError, "`values` must be float32, .* Found Int"),
        (changed(values=lambda v: v[:9]), ValueError, "`values` must end with 16 numbers more .* Found V = 9"),
        (changed(offsets=torch.Tensor.int), TypeError, "`offsets` must be Long. Found Int"),
        (
            changed(offsets=lambda o: o[:, :2]),
            ValueError,
            r"`offsets` must have shape \[F / 16 = 6, D / 32 rounded up = 3\]. Found \[6, 2\]",
        ),
        (changed(weight=lambda w: w[..., :8]), ValueError, r"must have shape \[F / 16, D, 16 = 16\]. Found"),
    ],
)


@bad_sparse_inputs
def test_bad_sparse_input(change, error, message):
    with pytest.raises(error, match=message):
        routed_linear(*change(packed(pruned_inputs(USUAL), "sparse")))


@bad_sparse_inputs
def test_bad_sparse_input_while_tracing(change, error, message):
    inputs = change(packed(pruned_inputs(USUAL), "sparse"))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(error, match=message):
        routed_linear(*inputs)


@pytest.mark.parametrize(
    "change",
    [
        changed(offsets=lambda o: o - 1),
        changed(offsets=lambda o: o + 1),
        changed(offsets=lambda o: torch.full_like(o, 2**40)),
        changed(offsets=torch.zeros_like),
        changed(masks=lambda m: torch.full_like(m, -1)),
        changed(values=lambda v: v[:-1]),
    ],
)
def test_offsets_that_do_not_fit_the_masks_are_an_error(change):
    with pytest.raises(ValueError, match="`offsets` must tell where `values` holds the numbers of `masks`"):
        routed_linear(*change(packed(pruned_inputs(USUAL), "sparse")))


def test_task_vectors_of_another_layout_than_the_weight_are_refused():
    inputs = routed_linear_inputs(USUAL)
    weight, _ = pack_task_vectors(inputs.weight, inputs.task_vectors)
    with pytest.raises(ValueError, match=r"`task_vectors` must have shape \[F / 16 = 6, D = 70, T, 16 = 16\]. Found"):
        routed_linear(*inputs._replace(weight=weight))


@pytest.mark.parametrize("name", ["values", "weight"])
def test_gradient_of_a_frozen_argument_is_an_error(name):
    inputs = packed(pruned_inputs(USUAL), "sparse")
    tensor = inputs.weight if name == "weight" else inputs.task_vectors.values
    tensor.requires_grad_()
    with pytest.raises(RuntimeError, match=f"`{name}` is frozen"):
        routed_linear(*inputs)
