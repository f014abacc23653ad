"""The ops run on the current stream, never wait for the device, and are captured in CUDA graphs."""

import pytest
import torch

from on_gpu import DEVICE, assert_same, results, to_gpu
from wemoe_ext import merge_weights, pack_sparse_task_vectors, pack_task_vectors, routed_linear
from wemoe_ext.testing import DTYPES, Shape, merge_weights_inputs, routed_linear_inputs

SHAPE = Shape(R=6, M=50, D=128, F=192, T=8)
CYCLES = 200_000_000  # about a tenth of a second: work of another stream would be over by then

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
singles_and_halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def plain(inputs):
    return inputs


def packed(inputs):
    weight, task_vectors = pack_task_vectors(inputs.weight, inputs.task_vectors)
    return inputs._replace(weight=weight, task_vectors=task_vectors)


def sparse(inputs):
    weight, task_vectors = pack_sparse_task_vectors(inputs.weight, inputs.task_vectors)
    return inputs._replace(weight=weight, task_vectors=task_vectors)


@dtypes
def test_runs_on_the_current_stream(path, dtype):
    inputs = to_gpu(routed_linear_inputs(SHAPE, dtype))
    grad = torch.randn(SHAPE.R, SHAPE.M, SHAPE.F, device=DEVICE).to(dtype)
    expected = results(routed_linear, inputs, grad)
    late = inputs._replace(x=torch.full_like(inputs.x, torch.nan))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        late.x.copy_(inputs.x)  # what another stream reads before is NaN
        found = results(routed_linear, late, grad)
        torch.cuda.current_stream().synchronize()
    assert_same(found, expected)


def test_merge_weights_runs_on_the_current_stream():
    inputs = to_gpu(merge_weights_inputs((300, 301), 3, 4))
    expected = merge_weights(*inputs)
    late = torch.full_like(inputs.base, torch.nan)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        late.copy_(inputs.base)
        found = merge_weights(late, *inputs[1:])
        torch.cuda.current_stream().synchronize()
    assert torch.equal(found, expected)


@pytest.fixture
def _no_waiting():
    """Any call that waits for the device raises, as far as torch sees it."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("form", [plain, packed])
@dtypes
def test_never_waits_for_the_device(path, form, dtype):
    inputs = form(to_gpu(routed_linear_inputs(SHAPE, dtype)))
    grad = torch.randn(SHAPE.R, SHAPE.M, SHAPE.F, device=DEVICE).to(dtype)
    torch.cuda.set_sync_debug_mode("error")
    results(routed_linear, inputs, grad)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@dtypes
def test_merge_weights_never_waits_for_the_device(dtype):
    inputs = to_gpu(merge_weights_inputs((70, 90), 3, 4, dtype))
    inputs.routing_weights.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    merge_weights(*inputs).sum().backward()


def captured(function):
    """A CUDA graph of a function, and what it returned; the first calls, which may set things up, are not captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph, outputs


@pytest.mark.parametrize("form", [plain, packed])
@singles_and_halves
def test_forward_and_backward_in_a_cuda_graph(path, form, dtype):
    shape = SHAPE
    inputs = form(to_gpu(routed_linear_inputs(shape, dtype)))
    inputs.x.requires_grad_()
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(shape.R, shape.M, shape.F, device=DEVICE).to(dtype)

    def step():
        y = routed_linear(*inputs)
        return y.detach(), *torch.autograd.grad(y, (inputs.x, inputs.routing_weights), grad)

    graph, outputs = captured(step)
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            inputs.x.copy_(torch.randn(inputs.x.shape))
            inputs.routing_weights.copy_(torch.randn(inputs.routing_weights.shape))
            grad.copy_(torch.randn(grad.shape))
        graph.replay()
        replayed = [output.clone() for output in outputs]
        assert_same(replayed, step())


@dtypes
def test_merge_weights_in_a_cuda_graph(dtype):
    inputs = to_gpu(merge_weights_inputs((70, 90), 3, 4, dtype))
    inputs.routing_weights.requires_grad_()
    grad = torch.randn(3, 70, 90, device=DEVICE).to(dtype)

    def step():
        merged = merge_weights(*inputs)
        return merged.detach(), *torch.autograd.grad(merged, inputs.routing_weights, grad)

    graph, outputs = captured(step)
    with torch.no_grad():
        inputs.routing_weights.copy_(torch.randn(3, 4))
        inputs.base.copy_(torch.randn(70, 90))
    graph.replay()
    for replayed, eager in zip([output.clone() for output in outputs], step(), strict=True):
        assert torch.equal(replayed, eager)


def test_sparse_task_vectors_in_a_cuda_graph():
    inputs = sparse(to_gpu(routed_linear_inputs(SHAPE)))

    def step():
        return routed_linear(*inputs)

    graph, y = captured(step)
    inputs.x.copy_(torch.randn(inputs.x.shape))
    graph.replay()
    assert torch.equal(y, step())


def test_another_device_than_the_current_one(path):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs. Found {torch.cuda.device_count()}.")
    inputs = to_gpu(routed_linear_inputs(SHAPE, torch.bfloat16))
    elsewhere = type(inputs)(*(tensor.to("cuda:1") for tensor in inputs))
    assert torch.cuda.current_device() == 0
    found = results(routed_linear, elsewhere)
    assert found[0].device == torch.device("cuda:1")
    assert_same([result.to("cuda:0") for result in found], results(routed_linear, inputs))
