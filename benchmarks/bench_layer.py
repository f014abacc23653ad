"""The whole layer, router included, against the plain MLP that it replaces and against plain PyTorch."""

import copy
from functools import partial

import torch
import work
from cases import BACKWARD, BATCH_AVERAGED, BFLOAT16, FORWARD, MEMORY, SPARSE, Case, bounds_of
from machine import THREADS, has_amx
from torch import nn
from torch_mlp import TorchMLP

from wemoe import WeightEnsemblingMoE
from wemoe.layers import RoutedMLP
from wemoe.mlp_search import find_mlp_parts
from wemoe_ext.testing import assert_close

D, F, T = 768, 3072, 8  # ViT-B/32 and B/16, BERT-base


def make_mlps(kept=1.0):
    """A base and its experts; `kept` is the part of the task vectors that is not zero."""
    base = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D)).requires_grad_(False)
    experts = [copy.deepcopy(base) for _ in range(T)]
    for parameter in (parameter for expert in experts for parameter in expert.parameters()):
        parameter += 0.01 * torch.randn_like(parameter) * (torch.rand_like(parameter) < kept)
    return base, experts


def make_methods(batch_reduce=False):
    base, experts = make_mlps()
    layer = WeightEnsemblingMoE(D, base, experts, batch_first=True, batch_reduce=batch_reduce)
    torch_mlp = TorchMLP(base, experts, layer.mlp.router, batch_reduce)
    return {"plain": base, "layer": layer, "vectorised": torch_mlp.vectorised, "loop": torch_mlp.loop}


def make_case(bounds, passes=1, batch_reduce=False, **settings):
    """The gradients of the layer take two passes over its operands, that of the plain MLP's input one."""
    B, N = bounds.B, bounds.N
    R, M = (1, B * N) if batch_reduce else (B, N)
    router = work.router(B, N, D)
    return Case(
        str(bounds),
        (work.mlp(R, M, D, F, T) + router) * passes,
        {
            "plain": work.mlp(1, B * N, D, F) * min(passes, 2),
            "bfloat16": (work.mlp(R, M, D, F, T, itemsize=2) + router) * passes,
        },
        at_most=bounds.at_most,
        aim=bounds.aim,
        **{"binding": THREADS == 1, **settings},
    )


def check_outputs(outputs):
    for method in ("layer", "vectorised"):
        assert_close(f"y of {method}", outputs[method], outputs["loop"])


@bounds_of(FORWARD)
def test_forward(compare, bounds):
    x = torch.randn(bounds.B, bounds.N, D)
    methods = {name: partial(method, x) for name, method in make_methods().items()}
    with torch.no_grad():
        compare(make_case(bounds), methods, check_outputs)


@bounds_of(BATCH_AVERAGED)
def test_batch_averaged_forward(compare, bounds):
    x = torch.randn(bounds.B, bounds.N, D)
    methods = {name: partial(method, x) for name, method in make_methods(batch_reduce=True).items()}
    with torch.no_grad():
        compare(make_case(bounds, batch_reduce=True), methods, check_outputs)


def make_gradients(bounds):
    """Functions that give the gradients of the input and of all router parameters; of the plain MLP, of the input."""
    methods = make_methods()
    x = torch.randn(bounds.B, bounds.N, D, requires_grad=True)
    grad = torch.randn(bounds.B, bounds.N, D)
    router = list(methods["layer"].mlp.router.parameters())

    def gradients(name):
        leaves = [x] if name == "plain" else [x, *router]
        return torch.autograd.grad(methods[name](x), leaves, grad)

    return {name: partial(gradients, name) for name in methods}


def check_gradients(outputs):
    for method in ("layer", "vectorised"):
        for found, expected in zip(outputs[method], outputs["loop"], strict=True):
            # a routing weight's gradient sums 4.7 million products, whose signs cancel to about 1 in 1000
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@bounds_of(BACKWARD)
def test_forward_and_backward(compare, bounds):
    compare(make_case(bounds, passes=3), make_gradients(bounds), check_gradients)


@bounds_of(MEMORY)
def test_memory(compare, bounds):
    """The plain MLP's peak counts what it saves for backward, its output and the gradient of the input."""
    case = make_case(bounds, passes=3, judged="extra_megabytes", binding=True)
    compare(case, make_gradients(bounds), check_gradients)


@bounds_of(BFLOAT16)
def test_bfloat16_over_own_float32(compare, bounds):
    x = torch.randn(bounds.B, bounds.N, D)
    float32 = make_methods()["layer"]
    bfloat16 = copy.deepcopy(float32)
    bfloat16.mlp.up.bfloat16()
    bfloat16.mlp.down.bfloat16()
    binding = THREADS == 1 and has_amx()
    case = make_case(bounds, ours="bfloat16", over="float32", binding=binding, in_baseline=False)
    methods = {"float32": partial(float32, x), "bfloat16": partial(bfloat16, x.bfloat16())}

    def check(outputs):
        # weights, hidden activations and output are rounded to 8 bits each
        error = (outputs["bfloat16"].float() - outputs["float32"]).abs().max()
        assert error <= 3 * torch.finfo(torch.bfloat16).eps * outputs["float32"].abs().max()

    with torch.no_grad():
        compare(case, methods, check)


@bounds_of(SPARSE)
def test_sparse_over_dense(compare, bounds):
    x = torch.randn(bounds.B, bounds.N, D)
    base, experts = make_mlps(kept=0.1)
    layer = WeightEnsemblingMoE(D, base, experts, batch_first=True)
    parts, *tuned = map(find_mlp_parts, (base, *experts))
    sparse = RoutedMLP.from_parts(parts, tuned, layer.mlp.router, prune=nn.Identity())  # zero already where it is to be

    def check(outputs):
        assert_close("y", outputs["sparse"], outputs["layer"])

    case = make_case(bounds, ours="sparse", over="layer")
    with torch.no_grad():
        compare(case, {"layer": partial(layer, x), "sparse": partial(sparse, x)}, check)
