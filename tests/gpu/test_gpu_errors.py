"""Bad input on CUDA: one clear sentence, as on the CPU."""

import pytest
import torch

from on_gpu import DEVICE, to_gpu
from wemoe_ext import merge_weights, routed_linear
from wemoe_ext.testing import Shape, merge_weights_inputs, routed_linear_inputs

SMALL = Shape(R=3, M=2, D=8, F=16, T=2)
ARGUMENTS = ("weight", "task_vectors", "routing_weights", "bias", "task_biases")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_on_the_cpu(path, name):
    inputs = to_gpu(routed_linear_inputs(SMALL))
    with pytest.raises(ValueError, match=f"routed_linear: `{name}` must be on the device of `x`, cuda:0. Found cpu"):
        routed_linear(*inputs._replace(**{name: getattr(inputs, name).cpu()}))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_input_on_the_cpu_and_one_argument_on_the_gpu(path, name):
    inputs = routed_linear_inputs(SMALL)
    with pytest.raises(ValueError, match=f"routed_linear: `{name}` must be on the device of `x`, cpu. Found cuda:0"):
        routed_linear(*inputs._replace(**{name: getattr(inputs, name).to(DEVICE)}))


@pytest.mark.parametrize("name", ["task_vectors", "routing_weights"])
def test_an_argument_of_merge_weights_on_the_cpu(name):
    inputs = to_gpu(merge_weights_inputs((4, 5), 3, 2))
    with pytest.raises(ValueError, match=f"merge_weights: `{name}` must be on the device of `base`, cuda:0. Found cpu"):
        merge_weights(*inputs._replace(**{name: getattr(inputs, name).cpu()}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(3, 5)}, ValueError, r"`x` must have shape \[R, M, D = 8\]. Found \[3, 5\]"),
        ({"weight": torch.ones(5)}, ValueError, r"`weight` must have shape \[F, D\]. Found \[5\]"),
        ({"task_vectors": torch.ones(0, 16, 8)}, ValueError, "`task_vectors` must hold at least one task"),
        ({"routing_weights": torch.ones(2, 2)}, ValueError, r"must have shape \[R = 3, T = 2\]. Found \[2, 2\]"),
        ({"bias": None}, ValueError, "`task_biases` need a `bias` that they add to. Found None"),
        ({"x": torch.ones(3, 2, 8, dtype=torch.int64)}, TypeError, "`x` must be float32, .* Found Long"),
        ({"weight": torch.ones(16, 8, dtype=torch.complex64)}, TypeError, "`weight` must be .* Found ComplexFloat"),
        ({"routing_weights": torch.ones(3, 2, dtype=torch.bool)}, TypeError, "`routing_weights` must be .* Found Bool"),
    ],
)
def test_bad_input(path, change, error, message):
    there = {name: tensor if tensor is None else tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(error, match="routed_linear: .*" + message):
        routed_linear(*to_gpu(routed_linear_inputs(SMALL))._replace(**there))


@pytest.mark.parametrize("name", ["weight", "task_vectors", "bias", "task_biases"])
def test_gradient_of_a_frozen_argument(path, name):
    inputs = to_gpu(routed_linear_inputs(SMALL))
    getattr(inputs, name).requires_grad_()
    with pytest.raises(RuntimeError, match=f"routed_linear: `{name}` is frozen"):
        routed_linear(*inputs)


def test_double_backward(path):
    inputs = to_gpu(routed_linear_inputs(SMALL))
    x = inputs.x.requires_grad_()
    (grad,) = torch.autograd.grad(routed_linear(*inputs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="routed_linear: has no second derivative"):
        grad.sum().backward()


def test_an_error_leaves_the_gpu_usable(path):
    inputs = to_gpu(routed_linear_inputs(SMALL))
    expected = routed_linear(*inputs)
    with pytest.raises(ValueError, match="routed_linear"):
        routed_linear(*inputs._replace(x=inputs.x[..., 1:]))
    torch.cuda.synchronize()
    assert torch.equal(routed_linear(*inputs), expected)


def test_a_path_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "quick")
    with pytest.raises(ValueError, match=r"WEMOE_CUDA_ROUTED_LINEAR must be auto, fused or chunked\. Found quick"):
        routed_linear(*to_gpu(routed_linear_inputs(SMALL)))


@pytest.mark.parametrize(
    ("shape", "dtypes", "rule"),
    [
        (SMALL, (torch.float64, torch.float64), "of one dtype: .* Found Double and Double"),
        (SMALL, (torch.float32, torch.bfloat16), "of one dtype: .* Found Float and BFloat16"),
        (SMALL._replace(D=9), (torch.bfloat16, torch.bfloat16), "multiples of 8, 16 bytes. Found D = 9, F = 16"),
        (SMALL._replace(F=6), (torch.float32, torch.float32), "multiples of 4, 16 bytes. Found D = 8, F = 6"),
    ],
)
def test_fused_kernels_that_do_not_take_the_arguments(monkeypatch, shape, dtypes, rule):
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "fused")
    inputs = to_gpu(routed_linear_inputs(shape, *dtypes))
    with pytest.raises(ValueError, match="routed_linear: WEMOE_CUDA_ROUTED_LINEAR=fused needs .*" + rule):
        routed_linear(*inputs)
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", "auto")
    assert routed_linear(*inputs).shape == (shape.R, shape.M, shape.F)
