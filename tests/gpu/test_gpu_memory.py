"""No assembled weight of a whole batch is ever in memory, and each path runs the kernels that it is named after."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from on_gpu import DEVICE, results, to_gpu
from wemoe_ext import merge_weights, routed_linear
from wemoe_ext.testing import Shape, merge_weights_inputs, routed_linear_inputs

SHAPE = Shape(R=64, M=50, D=768, F=3072, T=8)
MERGED = SHAPE.R * SHAPE.F * SHAPE.D  # numbers: 302 MB in half precision


def peak_bytes(function):
    """The most memory that tensors took at a time during a call, above what there was before."""
    function()  # what is set up once is not counted
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_weights_of_the_whole_batch_are_never_in_memory(path, dtype):
    inputs = to_gpu(routed_linear_inputs(SHAPE, dtype))
    results_bytes = sum(result.nbytes for result in results(routed_linear, inputs))
    grad = torch.zeros(SHAPE.R, SHAPE.M, SHAPE.F, dtype=dtype, device=DEVICE)
    extra = peak_bytes(lambda: results(routed_linear, inputs, grad)) - results_bytes
    assert extra < MERGED * dtype.itemsize / 2


def kernels_of(function):
    """Names of the kernels that a call runs on the GPU."""
    function()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    names = [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert names, "the profiler saw no kernel: is CUPTI allowed to trace?"
    return [name for name in names if not name.startswith("Mem")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_fused_path_is_kernels_of_our_own(monkeypatch, dtype):
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "fused")
    torch.use_deterministic_algorithms(False)  # which fills new memory, by a kernel of torch's
    inputs = routed_linear_inputs(SHAPE, dtype, bias=False)
    inputs = to_gpu(inputs._replace(routing_weights=torch.randn(SHAPE.R, SHAPE.T)))
    assert all("wemoe" in name for name in kernels_of(lambda: routed_linear(*inputs)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_chunked_path_multiplies_with_cublas(monkeypatch, dtype):
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "chunked")
    inputs = to_gpu(routed_linear_inputs(SHAPE, dtype))
    others = [name for name in kernels_of(lambda: routed_linear(*inputs)) if "wemoe" not in name]
    assert others


def test_merge_weights_is_a_kernel_of_our_own():
    torch.use_deterministic_algorithms(False)
    inputs = to_gpu(merge_weights_inputs((300, 301), 3, 4))
    assert all("wemoe" in name for name in kernels_of(lambda: merge_weights(*inputs)))
