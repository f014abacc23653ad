"""What the tests of the ops on a GPU share: inputs there, exact results in float64 on the CPU, and what may differ."""

import os
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from wemoe_ext import SparseTaskVectors, expand_task_vectors, reference, unpack_task_vectors
from wemoe_ext.testing import SHAPES, Shape

DEVICE = torch.device("cuda")

# Rows of whole pieces of 16 bytes, as the fused kernels want them: one of everything, less than a tile, ends of tiles
# and one beyond, one and many routes, tasks that no group divides.
FUSED_SHAPES = (
    Shape(R=1, M=1, D=8, F=8, T=1),
    Shape(R=1, M=300, D=8, F=264, T=20),
    Shape(R=70, M=1, D=264, F=8, T=1),
    Shape(R=2, M=15, D=16, F=24, T=2),
    Shape(R=3, M=16, D=24, F=16, T=3),
    Shape(R=4, M=17, D=32, F=64, T=4),
    Shape(R=5, M=31, D=40, F=72, T=5),
    Shape(R=6, M=32, D=56, F=128, T=6),
    Shape(R=7, M=33, D=64, F=136, T=7),
    Shape(R=8, M=50, D=72, F=192, T=8),
    Shape(R=9, M=63, D=96, F=120, T=9),
    Shape(R=12, M=64, D=104, F=256, T=10),
    Shape(R=13, M=65, D=128, F=40, T=11),
    Shape(R=16, M=50, D=256, F=512, T=8),
    Shape(R=17, M=77, D=136, F=200, T=12),
    Shape(R=23, M=49, D=192, F=64, T=13),
    Shape(R=31, M=3, D=512, F=96, T=14),
    Shape(R=33, M=128, D=64, F=64, T=15),
    Shape(R=48, M=129, D=48, F=80, T=16),
    Shape(R=64, M=50, D=128, F=256, T=8),
    Shape(R=65, M=7, D=88, F=328, T=17),
    Shape(R=70, M=20, D=200, F=104, T=20),
    Shape(R=1, M=197, D=768, F=256, T=4),
    Shape(R=2, M=257, D=256, F=1024, T=3),
)
ALL_SHAPES = (*SHAPES, *FUSED_SHAPES)

NAMES = ("y", "grad_x", "grad_routing_weights")

# Half a unit in the last place, of what goes into tensor cores: TF32 has the 10 bits of float16.
OPERAND_ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 0.0, torch.float64: 0.0}
TF32_ROUNDING = 2**0.5 * 2**-10  # of both factors, which cuBLAS may cut off where our kernels round them

# Sums of numbers that were each rounded on their own stray further than this many times the root of the sum of their
# squared bounds once in 2e10 times (Hoeffding's inequality).
DEVIATIONS = 7


class Exact(NamedTuple):
    """A result in float64, and the root of the sum of the squares of the products that it adds."""

    value: Tensor
    spread: Tensor


def to_gpu(inputs):
    """The same arguments, on the GPU; sparse task vectors too."""
    return type(inputs)(*(move(argument, DEVICE) for argument in inputs))


def move(argument, device, dtype=None):
    if argument is None:
        return None
    if isinstance(argument, SparseTaskVectors):
        return SparseTaskVectors(*(tensor.to(device) for tensor in argument))
    return argument.to(device, dtype)


def gradient_of(shape, dtype):
    """A gradient that tells elements apart, on the CPU: from -1 to 2."""
    return torch.linspace(-1, 2, max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()].view(shape).to(dtype)


def output_shape(inputs):
    weight = inputs.weight
    return (*inputs.x.shape[:2], weight.shape[0] if weight.dim() == 2 else weight.shape[0] * weight.shape[2])


def fused_takes(inputs):
    """Whether the fused kernels take these arguments: of one dtype but float64, in rows of whole pieces of 16 bytes."""
    x, weight, task_vectors = inputs[:3]
    if isinstance(task_vectors, SparseTaskVectors):
        task_vectors = task_vectors.values
    same = x.dtype == weight.dtype == task_vectors.dtype != torch.float64
    return same and all(size * x.dtype.itemsize % 16 == 0 for size in (x.shape[2], output_shape(inputs)[2]))


@contextmanager
def path_that_takes(inputs):
    """The path that is named, or, where it is that of the fused kernels and they do not take the arguments, any.

    To name them then is an error (test_gpu_errors.py).
    """
    name = "WEMOE_CUDA_ROUTED_LINEAR"
    named = os.environ.get(name)
    if named == "fused" and not fused_takes(inputs):
        os.environ[name] = "auto"
    try:
        yield
    finally:
        if named is not None:
            os.environ[name] = named


def results(function, inputs, grad=None):
    """Output, gradient of x and gradient of the routing weights."""
    with path_that_takes(inputs):
        return with_gradients(function, inputs, grad)


def with_gradients(function, inputs, grad):
    x = inputs.x.detach().requires_grad_()
    routing_weights = inputs.routing_weights.detach().requires_grad_()
    y = function(*inputs._replace(x=x, routing_weights=routing_weights))
    if grad is None:
        grad = gradient_of(y.shape, y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, routing_weights), grad.to(y.device))


def exact_results(inputs, grad=None):
    """The same three in float64 on the CPU, of the very numbers that the inputs hold."""
    if grad is None:
        grad = gradient_of(output_shape(inputs), inputs.x.dtype)
    grad = grad.cpu().double()
    plain = plain_doubles(inputs)
    values = results(reference.routed_linear, plain, grad)
    weights = reference.merge_weights(plain.weight, plain.task_vectors, plain.routing_weights).square()  # [R, F, D]
    x, grad = plain.x.square(), grad.square()
    products = torch.einsum("rmf,rmd->rfd", grad, x)
    spreads = (
        torch.einsum("rmd,rfd->rmf", x, weights).sqrt(),
        torch.einsum("rmf,rfd->rmd", grad, weights).sqrt(),
        torch.einsum("rfd,tfd->rt", products, plain.task_vectors.square()).sqrt(),
    )
    return [Exact(value, spread) for value, spread in zip(values, spreads, strict=True)]


def plain_doubles(inputs):
    """Arguments in float64 on the CPU, in plain shapes."""
    weight, task_vectors = inputs.weight, inputs.task_vectors
    if isinstance(task_vectors, SparseTaskVectors):
        task_vectors = expand_task_vectors(task_vectors)
    if weight.dim() == 3:
        weight, task_vectors = unpack_task_vectors(weight, task_vectors)
    plain = inputs._replace(weight=weight, task_vectors=task_vectors)
    return type(inputs)(*(move(argument, "cpu", torch.float64) for argument in plain))


def assert_rounding_explains(name, actual, exact, compute_dtype, rounding):
    """Asserts that a result is as far from the exact one as rounding explains, element by element.

    What may differ: products with numbers that were each rounded by `rounding`, and all of them by as much where
    numbers are cut off; one rounding to the dtype of the result; and sums of up to 4096 products in another order,
    about 64 roundings of the type that they are taken in (`wemoe_ext.testing.tolerance`), of the largest result or
    spread.
    """
    value, spread = exact
    assert actual.shape == value.shape, f"{name}: shape {list(actual.shape)}, expected {list(value.shape)}"
    if value.numel() == 0:
        return
    sums = torch.finfo(torch.float64 if compute_dtype == torch.float64 else torch.float32).eps
    largest = value.abs().max() + spread.max()
    factors = rounding * (DEVIATIONS * spread + value.abs())
    allowed = factors + torch.finfo(actual.dtype).eps * value.abs() + 64 * sums * largest
    error = (actual.cpu().double() - value).abs()
    worst = (error / allowed).argmax().item()
    assert (error <= allowed).all(), (
        f"{name}: element {worst} differs by {error.flatten()[worst]:.3g}, more than the "
        f"{allowed.flatten()[worst]:.3g} that rounding explains"
    )


def assert_exact(function, inputs, tf32=False, grad=None):
    """Asserts that output and gradients on the GPU are the exact ones but for rounding, and of the right dtypes.

    Args:
        function: routed_linear, or something that wraps it.
        inputs: Its arguments, on the CPU or in any layout on the GPU.
        tf32: Whether products of float32 may be taken in TF32.
        grad: The gradient of the output, in any layout; `gradient_of` by default.
    """
    found = results(function, to_gpu(inputs), grad)
    dtypes = (inputs.x.dtype, inputs.x.dtype, inputs.routing_weights.dtype)
    rounding = TF32_ROUNDING if tf32 and inputs.x.dtype == torch.float32 else OPERAND_ROUNDING[inputs.x.dtype]
    for name, result, exact, dtype in zip(NAMES, found, exact_results(inputs, grad), dtypes, strict=True):
        assert result.dtype == dtype, f"{name}: dtype {result.dtype}, expected {dtype}"
        assert_rounding_explains(name, result, exact, inputs.x.dtype, rounding)


def assert_same(found, expected):
    """Asserts equality to the last bit, NaN in the same places."""
    for name, one, other in zip(NAMES, found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan()), name
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), name
