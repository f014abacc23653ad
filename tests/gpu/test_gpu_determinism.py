"""The same bits from run to run and in any batch; TF32 where torch allows it, and nowhere else."""

import pytest
import torch

from on_gpu import DEVICE, assert_exact, assert_same, gradient_of, results, to_gpu
from wemoe_ext import merge_weights, routed_linear
from wemoe_ext.testing import DTYPES, Shape, merge_weights_inputs, routed_linear_inputs

BATCH = Shape(R=19, M=13, D=152, F=104, T=5)
LARGE = Shape(R=64, M=50, D=768, F=1024, T=8)  # many blocks on every GPU, in no fixed order

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_run_to_run(path, dtype):
    inputs = to_gpu(routed_linear_inputs(LARGE, dtype))
    first = results(routed_linear, inputs)
    for _ in range(5):
        assert_same(results(routed_linear, inputs), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_run_to_run_beside_other_work(path, dtype):
    """A busy GPU takes blocks in another order."""
    inputs = to_gpu(routed_linear_inputs(LARGE, dtype))
    first = results(routed_linear, inputs)
    other = torch.randn(4096, 4096, device=DEVICE)
    stream = torch.cuda.Stream()
    for _ in range(5):
        with torch.cuda.stream(stream):
            for _ in range(10):
                other @ other
        assert_same(results(routed_linear, inputs), first)
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_route_does_not_depend_on_the_batch(monkeypatch, bias, dtype):
    """Of the fused kernels. torch and cuBLAS, which add up the chunked path and the biases' part of the routing
    weights' gradient, promise no order of sums for batches of other sizes.
    """
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "fused")
    inputs = to_gpu(routed_linear_inputs(BATCH, dtype, bias=bias))
    grad = gradient_of((BATCH.R, BATCH.M, BATCH.F), dtype)
    kept = 2 if bias else 3
    together = results(routed_linear, inputs, grad)[:kept]
    for first, last in ((0, 1), (7, 8), (18, 19), (3, 12)):
        some = inputs._replace(x=inputs.x[first:last], routing_weights=inputs.routing_weights[first:last])
        alone = results(routed_linear, some, grad[first:last])[:kept]
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one, all_[first:last])


@dtypes
def test_merge_weights_does_not_depend_on_the_batch(dtype):
    inputs = to_gpu(merge_weights_inputs((70, 90), 9, 4, dtype))
    together = merge_weights(*inputs)
    for r in (0, 5, 8):
        alone = merge_weights(*inputs._replace(routing_weights=inputs.routing_weights[r : r + 1]))
        assert torch.equal(alone[0], together[r])


def test_merge_weights_run_to_run():
    inputs = to_gpu(merge_weights_inputs((1024, 1025), 3, 8))
    inputs.routing_weights.requires_grad_()

    def gradient():
        return torch.autograd.grad(merge_weights(*inputs).square().sum(), inputs.routing_weights)[0]

    first = gradient()
    for _ in range(5):
        assert torch.equal(gradient(), first)


def test_float32_is_exact_where_tf32_is_not_allowed(path):
    assert_exact(routed_linear, routed_linear_inputs(Shape(R=5, M=50, D=512, F=256, T=4)))


def test_tf32_is_used_where_torch_allows_it(path):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("TF32 came with compute capability 8.0")
    inputs = routed_linear_inputs(Shape(R=5, M=50, D=512, F=256, T=4))
    exact = results(routed_linear, to_gpu(inputs))
    torch.set_float32_matmul_precision("high")
    assert_exact(routed_linear, inputs, tf32=True)
    y, grad_x, _ = results(routed_linear, to_gpu(inputs))
    assert not torch.equal(y, exact[0])
    assert not torch.equal(grad_x, exact[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_tf32_changes_nothing_of_other_dtypes(path, dtype):
    inputs = to_gpu(routed_linear_inputs(BATCH, dtype))
    without = results(routed_linear, inputs)
    torch.set_float32_matmul_precision("high")
    assert_same(results(routed_linear, inputs), without)
