"""Every op on the GPU, forward and backward, on few numbers: what compute-sanitizer watches."""

import os

import torch

from wemoe_ext import merge_weights, routed_linear
from wemoe_ext.testing import Shape, merge_weights_inputs, routed_linear_inputs

# Ends of tiles in every dimension, more than one block; and a shape that the fused kernels do not take.
SHAPES = (Shape(R=3, M=50, D=72, F=136, T=5), Shape(R=9, M=17, D=128, F=64, T=8))
ODD = Shape(R=2, M=5, D=17, F=33, T=3)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run_routed_linear(shape: Shape, dtype: torch.dtype) -> None:
    """Forward and backward of one shape."""
    inputs = routed_linear_inputs(shape, dtype)
    inputs = type(inputs)(*(tensor.cuda() for tensor in inputs))  # type: ignore[union-attr]
    leaves = (inputs.x.requires_grad_(), inputs.routing_weights.requires_grad_())
    torch.autograd.grad(routed_linear(*inputs).sum(), leaves)


def run_merge_weights(dtype: torch.dtype) -> None:
    """Forward and backward, with a tail."""
    inputs = merge_weights_inputs((37, 41), 3, 5, dtype)
    inputs = type(inputs)(*(tensor.cuda() for tensor in inputs))
    routing_weights = inputs.routing_weights.requires_grad_()
    torch.autograd.grad(merge_weights(*inputs).sum(), routing_weights)


def main() -> None:
    """Everything once, in both implementations of routed_linear, with TF32 and without."""
    for path, shapes in (("fused", SHAPES), ("chunked", (*SHAPES, ODD))):
        os.environ["WEMOE_CUDA_ROUTED_LINEAR"] = path
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            for dtype in DTYPES:
                for shape in shapes:
                    run_routed_linear(shape, dtype)
    for dtype in (*DTYPES, torch.float64):
        run_merge_weights(dtype)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
