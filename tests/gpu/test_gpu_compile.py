"""torch.compile without a graph break, and autocast, on CUDA."""

import pytest
import torch

from on_gpu import DEVICE, assert_exact, assert_same, results, to_gpu
from wemoe_ext import merge_weights, routed_linear
from wemoe_ext.testing import Shape, merge_weights_inputs, routed_linear_inputs

USUAL = Shape(R=5, M=9, D=72, F=96, T=3)
halves = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)

pytestmark = pytest.mark.filterwarnings("ignore")  # what inductor says about itself, its imports and this GPU


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_routed_linear_compiles_without_a_graph_break(path, dtype, dynamic, backend):
    inputs = to_gpu(routed_linear_inputs(USUAL, dtype))
    compiled = torch.compile(routed_linear, fullgraph=True, backend=backend, dynamic=dynamic)
    assert_same(results(compiled, inputs), results(routed_linear, inputs))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_merge_weights_compiles_without_a_graph_break(backend):
    inputs = to_gpu(merge_weights_inputs((40, 50), 3, 2))
    compiled = torch.compile(merge_weights, fullgraph=True, backend=backend)
    found = []
    for function in (compiled, merge_weights):
        routing_weights = inputs.routing_weights.detach().requires_grad_()
        merged = function(*inputs._replace(routing_weights=routing_weights))
        found.append((merged, *torch.autograd.grad(merged.square().sum(), routing_weights)))
    assert all(torch.equal(one, same) for one, same in zip(*found, strict=True))


@halves
def test_autocast_casts_the_input_and_no_weight(dtype):
    inputs = routed_linear_inputs(USUAL)

    def under_autocast(*arguments):
        with torch.autocast(DEVICE.type, dtype):
            return routed_linear(*arguments)

    y = under_autocast(*to_gpu(inputs))
    assert y.dtype == dtype
    assert_exact(routed_linear, inputs._replace(x=inputs.x.to(dtype)))
    assert torch.equal(y, routed_linear(*to_gpu(inputs._replace(x=inputs.x.to(dtype)))))


def test_gradients_under_autocast_have_the_dtypes_of_their_leaves():
    inputs = to_gpu(routed_linear_inputs(USUAL))
    x, routing_weights = inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = routed_linear(*inputs)
    y.float().square().sum().backward()
    assert x.grad.dtype == routing_weights.grad.dtype == torch.float32
    assert x.grad.isfinite().all()
    assert routing_weights.grad.abs().max() > 0


def test_autocast_keeps_float64():
    inputs = to_gpu(routed_linear_inputs(USUAL, torch.float64))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert routed_linear(*inputs).dtype == torch.float64


def test_autocast_of_the_cpu_changes_nothing_on_the_gpu(path):
    inputs = to_gpu(routed_linear_inputs(USUAL))
    with torch.autocast("cpu", torch.bfloat16):
        assert routed_linear(*inputs).dtype == torch.float32


@halves
def test_compiles_under_autocast(dtype):
    inputs = to_gpu(routed_linear_inputs(USUAL))
    with torch.autocast(DEVICE.type, dtype):
        compiled = torch.compile(routed_linear, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*inputs), routed_linear(*inputs))
