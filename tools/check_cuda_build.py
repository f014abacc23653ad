"""Checks a CUDA build as far as no GPU is needed: what it is, what it registered, tracing, and bad input.

CUDA kernels are called here with tensors on the CPU: they check their arguments before they ask for a GPU.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import wemoe_ext
from wemoe_ext import merge_weights, pack_sparse_task_vectors, routed_linear
from wemoe_ext.testing import Shape, routed_linear_inputs

OWN = {"routed_linear", "routed_linear_backward", "merge_weights", "merge_weights_backward"}
COMPOSED = {"routed_linear_sparse", "routed_linear_sparse_backward"}  # they expand, and call the ops above
R, M, D, F, T = Shape(R=3, M=5, D=16, F=32, T=2)
BEYOND = 2**31 + 8


def check_build() -> None:
    """The library says that it was built for CUDA."""
    build = wemoe_ext.build_info()
    print(f"torch {build['torch']}, CUDA {build['cuda']}, architectures {' '.join(build['cuda_architectures'])}")
    assert build["cuda"] is not None, "the library was built for CPU only"


def check_registration() -> None:
    """Every op has a kernel for CUDA, of its own where there are CUDA kernels."""
    found = {name.removeprefix("wemoe::") for name in torch._C._dispatch_get_all_op_names() if "wemoe::" in name}
    assert found == OWN | COMPOSED, f"ops are registered that this check does not know, or not all: {found}"
    for name in found:
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"wemoe::{name}", "CUDA"), name
        own = torch._C._dispatch_has_kernel_for_dispatch_key(f"wemoe::{name}", "CUDA")
        assert own == (name in OWN), f"{name}: a CUDA kernel of its own: {own}"


def on_cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Within FakeTensorMode."""
    return torch.empty(shape, device="cuda", dtype=dtype)


def check_shapes() -> None:
    """What comes out has the right shape, dtype and device, also where dtypes are mixed."""
    with FakeTensorMode():
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            x, routing_weights = on_cuda(R, M, D, dtype=dtype), on_cuda(R, T)
            weight, task_vectors = on_cuda(F, D, dtype=torch.bfloat16), on_cuda(T, F, D, dtype=torch.float16)
            y = routed_linear(x, weight, task_vectors, routing_weights, on_cuda(F), on_cuda(T, F))
            expect(y, (R, M, F), dtype)
            backward = torch.ops.wemoe.routed_linear_backward
            both = backward(y, x, weight, task_vectors, routing_weights, on_cuda(T, F), [True, True])
            expect(both[0], (R, M, D), dtype)
            expect(both[1], (R, T), torch.float32)
            neither = backward(y, x, weight, task_vectors, routing_weights, None, [False, False])
            assert [gradient.shape for gradient in neither] == [(0,), (0,)]
            base = on_cuda(F, D, dtype=dtype)
            expect(merge_weights(base, task_vectors, routing_weights), (R, F, D), dtype)
            gradient = torch.ops.wemoe.merge_weights_backward(on_cuda(R, F, D, dtype=dtype), task_vectors)
            expect(gradient, (R, T), torch.float64 if dtype == torch.float64 else torch.float32)


def expect(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Asserts what a tensor on CUDA is."""
    assert (tuple(tensor.shape), tensor.dtype, tensor.device.type) == (shape, dtype, "cuda"), tensor


def check_tracing() -> None:
    """make_fx and torch.compile record the op itself, and nothing that it is made of."""
    with FakeTensorMode():
        arguments = on_cuda(R, M, D), on_cuda(F, D), on_cuda(T, F, D), on_cuda(R, T)
        traced = make_fx(lambda *tensors: routed_linear(*tensors))(*arguments)
        called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
        assert called == [torch.ops.wemoe.routed_linear.default], called
        compiled = torch.compile(routed_linear, backend="eager", fullgraph=True)
        expect(compiled(*arguments), (R, M, F), torch.float32)


def check_autocast() -> None:
    """Autocast casts x alone; torch.autocast itself declines without a GPU, so its switch is thrown by hand."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode(), Log() as log:
            arguments = on_cuda(F, D), on_cuda(T, F, D), on_cuda(R, T)
            expect(routed_linear(on_cuda(R, M, D), *arguments), (R, M, F), torch.bfloat16)
            expect(routed_linear(on_cuda(R, M, D, dtype=torch.float64), *arguments), (R, M, F), torch.float64)
            expect(merge_weights(*arguments), (R, F, D), torch.float32)
    finally:
        torch.set_autocast_enabled("cuda", False)
    casts = [call for call in log.calls if call == "aten::_to_copy"]
    assert len(casts) == 1, log.calls


class Log(TorchDispatchMode):
    """Names of the ops that are called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def run_cuda_kernel(name: str, *arguments: Any) -> Any:
    """The kernel that CUDA tensors would reach, whatever these are."""
    op = getattr(torch.ops.wemoe, name).default
    return op.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *arguments)


def check_sparse() -> None:
    """Sparse ops expand, and leave the rest to the device's kernels: through the dispatcher."""
    inputs = routed_linear_inputs(Shape(R, M, D, F, T), bias=False)
    weight, sparse = pack_sparse_task_vectors(inputs.weight, inputs.task_vectors)
    with Log() as log:
        y = run_cuda_kernel("routed_linear_sparse", inputs.x, weight, *sparse, inputs.routing_weights, None, None)
        arguments = (y, inputs.x, weight, *sparse, inputs.routing_weights, None, [True, True])
        run_cuda_kernel("routed_linear_sparse_backward", *arguments)
    assert "wemoe::routed_linear" in log.calls, log.calls
    assert "wemoe::routed_linear_backward" in log.calls, log.calls
    torch.testing.assert_close(y, routed_linear(*inputs))


def check_bad_input() -> None:
    """CUDA kernels name the argument, the rule and what was found."""
    ones = torch.ones
    x, weight, task_vectors, routing_weights = ones(R, M, D), ones(F, D), ones(T, F, D), ones(R, T)
    good = {"x": x, "weight": weight, "task_vectors": task_vectors, "routing_weights": routing_weights}
    good |= {"bias": None, "task_biases": None}
    for changed, error, message in (
        ({"x": ones(M, D)}, ValueError, "`x` must have shape [R, M, D = 16]. Found [5, 16]"),
        ({"x": x.int()}, TypeError, "`x` must be float32, float64, bfloat16 or float16. Found Int"),
        ({"weight": weight.to("meta")}, ValueError, "`weight` must be on the device of `x`, cpu. Found meta"),
        ({"weight": ones(F, 8)}, ValueError, "`task_vectors` must have shape [T, F = 32, D = 8]. Found [2, 32, 16]"),
        ({"task_vectors": ones(0, F, D)}, ValueError, "`task_vectors` must hold at least one task. Found T = 0"),
        ({"routing_weights": ones(R, 3)}, ValueError, "must have shape [R = 3, T = 2]. Found [3, 3]"),
        ({"routing_weights": ones(R, T).bool()}, TypeError, "`routing_weights` must be float32"),
        ({"bias": ones(F + 1)}, ValueError, "`bias` must have shape [F = 32]. Found [33]"),
        ({"task_biases": ones(T, F)}, ValueError, "`task_biases` need a `bias` that they add to. Found None"),
    ):
        with pytest.raises(error, match=r"routed_linear: .*" + re.escape(message)):
            run_cuda_kernel("routed_linear", *(good | changed).values())
    backward = (x, weight, task_vectors, routing_weights, None, [True, True])
    for name, arguments, message in (
        ("routed_linear_backward", (ones(R, M, D), *backward), "`grad` must have shape [R = 3, M = 5, F = 32]"),
        ("merge_weights", (weight, ones(T, F), routing_weights), "`task_vectors` must have shape [T, ...] over"),
        (
            "merge_weights",
            (weight, task_vectors, routing_weights.to("meta")),
            "`routing_weights` must be on the device",
        ),
        ("merge_weights_backward", (ones(R, F), task_vectors), "`grad` must have shape [R, ...] over the shape of"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {re.escape(message)}"):
            run_cuda_kernel(name, *arguments)


def check_large() -> None:
    """Sizes of more than 2^31 pass every check and come out as they went in."""
    with FakeTensorMode():
        y = routed_linear(on_cuda(1, BEYOND, D), on_cuda(F, D), on_cuda(T, F, D), on_cuda(1, T))
        expect(y, (1, BEYOND, F), torch.float32)
        expect(merge_weights(on_cuda(BEYOND), on_cuda(T, BEYOND), on_cuda(R, T)), (R, BEYOND), torch.float32)


CHECKS = (
    check_build,
    check_registration,
    check_shapes,
    check_tracing,
    check_autocast,
    check_sparse,
    check_bad_input,
    check_large,
)

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print(f"{check.__name__.removeprefix('check_').replace('_', ' ')}: as it should be")
