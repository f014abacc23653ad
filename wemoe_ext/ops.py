"""The ops: public functions, and the autograd of the kernels in ``wemoe_ext._C``.

Schemas live in ``csrc/ops.cpp``, argument checks in ``csrc/checks.h``, shapes for tracing in ``csrc/meta.cpp``.
"""

from typing import Any

import torch
from torch import Tensor

from wemoe_ext import _C  # noqa: F401  loading the library registers the ops
from wemoe_ext.packing import SparseTaskVectors


def routed_linear(
    x: Tensor,
    weight: Tensor,
    task_vectors: Tensor | SparseTaskVectors,
    routing_weights: Tensor,
    bias: Tensor | None = None,
    task_biases: Tensor | None = None,
) -> Tensor:
    r"""A linear layer in which every route has weights of its own.

    .. math:: y_r = x_r \Big(W + \sum_t \lambda_{rt} \tau_t\Big)^\top + b + \sum_t \lambda_{rt} \beta_t

    This is equation 5 of "Merging Multi-Task Models via Weight-Ensembling Mixture of Experts" (arXiv
    2402.00433), applied to one linear layer. The weights of a route are assembled tile by tile and used while
    they are in cache: the ``R * F * D`` merged weights never exist in memory, forward or backward.

    The result of a route depends neither on the other routes of the batch nor on the number of threads, to the
    last bit; on CUDA that is true of the fused kernels, and the size of the batch may decide whether they run
    (``WEMOE_CUDA_ROUTED_LINEAR=fused`` or ``chunked`` decides it for good). Sums are taken in float32, in float64 if
    ``x`` is. Under autocast ``x`` is cast, weights are not. Weights, task vectors and biases are frozen: gradients
    reach ``x`` and ``routing_weights`` alone.

    Weights that stay are best packed once (:mod:`wemoe_ext.packing`): on a CPU every call is faster, and task vectors
    that are mostly zero may be sparse. A device without kernels of its own unpacks and expands them at every call.

    Args:
        x: Input, ``[R, M, D]``: ``M`` rows for each of ``R`` routes. The output has its dtype.
        weight: Base weight ``W``, ``[F, D]``, or packed, ``[F / 16, D, 16]``.
        task_vectors: Task vectors ``tau``, ``[T, F, D]``; beside a packed weight packed, ``[F / 16, D, T, 16]``,
            or sparse.
        routing_weights: Routing weights ``lambda``, ``[R, T]``; any sign, any size.
        bias: Base bias ``b``, ``[F]``.
        task_biases: Task vectors ``beta`` of the bias, ``[T, F]``; they need a ``bias``.

    Returns:
        Output ``y``, ``[R, M, F]``.

    Raises:
        ValueError: If a shape or a device does not fit the others, or ``T`` is 0.
        TypeError: If a dtype is not float32, float64, bfloat16 or float16.
        RuntimeError: If a gradient of a frozen argument, or a second derivative, is asked for.
    """
    x = _autocast(x)
    if isinstance(task_vectors, SparseTaskVectors):
        return torch.ops.wemoe.routed_linear_sparse(  # type: ignore[no-any-return]
            x, weight, *task_vectors, routing_weights, bias, task_biases
        )
    return torch.ops.wemoe.routed_linear(  # type: ignore[no-any-return]
        x, weight, task_vectors, routing_weights, bias, task_biases
    )


def merge_weights(base: Tensor, task_vectors: Tensor, routing_weights: Tensor) -> Tensor:
    r"""Merged parameters, one set for each route.

    .. math:: \theta_r = \theta_0 + \sum_t \lambda_{rt} \tau_t

    For parameters that are merged once per forward pass, and for folding constant routing weights into a plain
    model. Task arithmetic ("Editing Models with Task Arithmetic", arXiv 2212.04089) is the case of equal
    routing weights. Base and task vectors are frozen: gradients reach ``routing_weights`` alone.

    Args:
        base: Base parameter ``theta_0``, ``[...]``. The output has its dtype; sums are taken in float32, in
            float64 if ``base`` is.
        task_vectors: Task vectors ``tau``, ``[T, ...]``.
        routing_weights: Routing weights ``lambda``, ``[R, T]``; any sign, any size.

    Returns:
        Merged parameters, ``[R, ...]``.

    Raises:
        ValueError: If a shape or a device does not fit the others, or ``T`` is 0.
        TypeError: If a dtype is not float32, float64, bfloat16 or float16.
        RuntimeError: If a gradient of a frozen argument, or a second derivative, is asked for.
    """
    return torch.ops.wemoe.merge_weights(base, task_vectors, routing_weights)  # type: ignore[no-any-return]


def _autocast(x: Tensor) -> Tensor:
    """Casts as autocast casts the input of a linear layer; float64 stays."""
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def _refuse_frozen(ctx: Any, op: str, names: tuple[str, ...], trained: tuple[str, ...]) -> None:
    for position, name in enumerate(names):
        if ctx.needs_input_grad[position] and name not in trained:
            raise RuntimeError(
                f"{op}: `{name}` is frozen and has no gradient, but it requires one: detach it or call "
                f"`requires_grad_(False)`. Gradients reach the routing weights (and the input) alone."
            )


def _register_routed_linear(op: str, *weights: str) -> None:
    """Registers the autograd of an op whose arguments are x, the weights, routing weights and biases."""
    names = ("x", *weights, "routing_weights", "bias", "task_biases")
    trained = ("x", "routing_weights")
    x, routing_weights, bias = (names.index(name) for name in (*trained, "bias"))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _refuse_frozen(ctx, op, names, trained)
        ctx.save_for_backward(*inputs[:bias], *inputs[bias + 1 :])

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = [ctx.needs_input_grad[x], ctx.needs_input_grad[routing_weights]]
        run = getattr(torch.ops.wemoe, f"{op}_backward")
        grads = zip((x, routing_weights), run(grad, *ctx.saved_tensors, needs), needs, strict=True)
        found = {position: gradient for position, gradient, needed in grads if needed}
        return tuple(found.get(position) for position in range(len(names)))

    torch.library.register_autograd(f"wemoe::{op}", backward, setup_context=setup_context)


def _merge_weights_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    names = ("base", "task_vectors", "routing_weights")
    _refuse_frozen(ctx, "merge_weights", names, trained=("routing_weights",))
    _, task_vectors, routing_weights = inputs
    ctx.save_for_backward(task_vectors)
    ctx.routing_dtype = routing_weights.dtype


def _merge_weights_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (task_vectors,) = ctx.saved_tensors
    return None, None, torch.ops.wemoe.merge_weights_backward(grad, task_vectors).to(ctx.routing_dtype)


def _refuse_double_backward(op: str) -> None:
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"{op}: has no second derivative; call backward without `create_graph=True`.")

    torch.library.register_autograd(f"wemoe::{op}_backward", backward)


_register_routed_linear("routed_linear", "weight", "task_vectors")
_register_routed_linear("routed_linear_sparse", "weight", "masks", "values", "offsets")
torch.library.register_autograd(
    "wemoe::merge_weights", _merge_weights_backward, setup_context=_merge_weights_setup_context
)
for _op in ("routed_linear", "routed_linear_sparse", "merge_weights"):
    _refuse_double_backward(_op)
