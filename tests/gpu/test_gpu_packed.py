"""Packed and sparse weights on CUDA: what plain ones give."""

import pytest
import torch

from on_gpu import assert_exact, assert_same, results, to_gpu
from routed import FORMS, check_op, packed, pruned_inputs
from wemoe_ext import expand_task_vectors, routed_linear
from wemoe_ext.testing import DTYPES, Shape

SHAPES = (
    Shape(R=1, M=1, D=1, F=16, T=1),
    Shape(R=5, M=9, D=70, F=96, T=3),
    Shape(R=9, M=50, D=136, F=64, T=8),
    Shape(R=17, M=3, D=200, F=144, T=9),
    Shape(R=2, M=3, D=0, F=16, T=1),
    Shape(R=0, M=3, D=4, F=16, T=1),
    Shape(R=2, M=3, D=4, F=0, T=1),
)
forms = pytest.mark.parametrize("form", FORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@forms
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weights_are_exact_but_for_rounding(path, shape, dtype, form):
    assert_exact(routed_linear, packed(pruned_inputs(shape, dtype), form))


@forms
@dtypes
def test_packed_weights_give_the_same_to_the_last_bit(path, dtype, form):
    inputs = to_gpu(pruned_inputs(SHAPES[2], dtype))
    assert_same(results(routed_linear, packed(inputs, form)), results(routed_linear, inputs))


@forms
@pytest.mark.parametrize("expert_dtype", DTYPES, ids=str)
def test_task_vectors_may_have_another_dtype(path, expert_dtype, form):
    assert_exact(routed_linear, packed(pruned_inputs(SHAPES[1], torch.float32, expert_dtype), form))


@forms
@dtypes
def test_packing_on_the_gpu_is_packing_on_the_cpu(dtype, form):
    inputs = pruned_inputs(SHAPES[2], dtype)
    there, here = packed(to_gpu(inputs), form), to_gpu(packed(inputs, form))
    assert torch.equal(there.weight, here.weight)
    if form == "dense":
        assert torch.equal(there.task_vectors, here.task_vectors)
    else:
        for found, expected in zip(there.task_vectors, here.task_vectors, strict=True):
            assert torch.equal(found, expected)
        assert torch.equal(expand_task_vectors(there.task_vectors), expand_task_vectors(here.task_vectors))


@forms
def test_gradcheck(form):
    inputs = to_gpu(packed(pruned_inputs(Shape(R=2, M=3, D=20, F=16, T=3), torch.float64), form))

    def function(x, routing_weights):
        return routed_linear(*inputs._replace(x=x, routing_weights=routing_weights))

    torch.autograd.gradcheck(function, (inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_()))


def test_opcheck_of_sparse_task_vectors():
    x, weight, task_vectors, *rest = to_gpu(packed(pruned_inputs(SHAPES[1]), "sparse"))
    x.requires_grad_()
    check_op(torch.ops.wemoe.routed_linear_sparse.default, (x, weight, *task_vectors, *rest))


@forms
def test_compiles_without_a_graph_break(path, form):
    inputs = to_gpu(packed(pruned_inputs(SHAPES[1]), form))
    compiled = torch.compile(routed_linear, fullgraph=True, backend="aot_eager")
    assert_same(results(compiled, inputs), results(routed_linear, inputs))
