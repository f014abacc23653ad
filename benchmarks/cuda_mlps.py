"""The routed MLP of one case on a GPU, by every method, with routing weights given; and what its results must be."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import work
from torch import Tensor, nn
from torch_mlp import TorchMLP

from wemoe_ext import routed_linear

PATHS = ("fused", "chunked")
PLAIN, OTHERS = "plain", ("vectorised", "loop")

# Of the largest number of the result: weights, hidden activations and output are rounded to the operands' dtype, and of
# gradients what they are made of again; routing weights' gradients sum millions of products whose signs cancel.
ROUNDINGS = {"forward": 4, "forward + backward": 32}
EPS = {"bfloat16": 2**-7, "float16": 2**-10, "tf32": 2**-10, "float32": 2**-17}  # float32: of sums in another order


@dataclass(frozen=True)
class MLP:
    """The MLPs of a model: N tokens, width D, inner width F, T experts."""

    model: str
    N: int
    D: int
    F: int
    T: int = 8


@dataclass(frozen=True)
class Setting:
    """One case: an MLP, B samples, the type that products are taken in, forward or forward and backward."""

    mlp: MLP
    B: int
    numbers: str  # bfloat16, float16, float32 or tf32
    what: str

    def __str__(self) -> str:
        return f"{self.mlp.model} MLP, {self.what}, B={self.B} N={self.mlp.N} T={self.mlp.T}, {self.numbers}"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.numbers == "tf32" else getattr(torch, self.numbers)

    def work_of(self, method: str) -> work.Work:
        """As in the benchmarks of the layer: one pass, or three for all gradients, two for those of the plain MLP."""
        m, itemsize = self.mlp, self.dtype.itemsize
        passes = 1 if self.what == "forward" else 2 if method == PLAIN else 3
        if method == PLAIN:
            return work.mlp(1, self.B * m.N, m.D, m.F, itemsize=itemsize) * passes
        return work.mlp(self.B, m.N, m.D, m.F, m.T, itemsize) * passes


class Methods:
    """The same MLP by every method; parameters and task vectors are there once."""

    def __init__(self, setting: Setting, device: torch.device):
        m = setting.mlp
        base = nn.Sequential(nn.Linear(m.D, m.F), nn.GELU(), nn.Linear(m.F, m.D)).to(device, setting.dtype)
        base.requires_grad_(False)
        self.base, self.what = base, setting.what
        experts = [nn.Sequential(nn.Linear(m.D, m.F), nn.GELU(), nn.Linear(m.F, m.D)) for _ in range(m.T)]
        for expert in experts:
            expert.to(device, setting.dtype).requires_grad_(False)
            for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
                parameter.copy_(start + 0.1 * parameter)
        self.x = torch.randn(setting.B, m.N, m.D, device=device).to(setting.dtype)
        self.lambdas = (0.3 * torch.randn(setting.B, m.T, device=device)).to(setting.dtype)
        self.grad = torch.randn(setting.B, m.N, m.D, device=device).to(setting.dtype)
        self.torch_mlp = TorchMLP(base, experts, lambda x: self.lambdas)
        if self.what != "forward":
            self.x.requires_grad_()
            self.lambdas.requires_grad_()

    def functions(self) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """What is timed, by name: output alone, or output and gradients."""
        forwards = {
            PLAIN: lambda: self.base(self.x),
            **{path: partial(self.routed, path) for path in PATHS},
            **{name: partial(getattr(self.torch_mlp, name), self.x) for name in OTHERS},
        }
        return {name: partial(self.results, forward, name) for name, forward in forwards.items()}

    def routed(self, path: str) -> Tensor:
        os.environ["WEMOE_CUDA_ROUTED_LINEAR"] = path  # read at every call, in backward too
        return self.linear(self.base[1](self.linear(self.x, "0")), "2")

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.base.get_parameter(f"{name}.weight"), self.base.get_parameter(f"{name}.bias")
        experts = self.torch_mlp.task_vectors
        return routed_linear(x, weight, experts[f"{name}.weight"], self.lambdas, bias, experts[f"{name}.bias"])

    def results(self, forward: Callable[[], Tensor], name: str) -> tuple[Tensor, ...]:
        if self.what == "forward":
            with torch.no_grad():
                return (forward(),)
        y = forward()
        leaves = (self.x,) if name == PLAIN else (self.x, self.lambdas)
        return y.detach(), *torch.autograd.grad(y, leaves, self.grad)

    def expected(self) -> tuple[Tensor, ...]:
        """What every method but the plain one must give: the loop over samples, in float32."""
        exact = copy.deepcopy(self.torch_mlp)
        exact.base.float()
        exact.task_vectors = {name: tensor.float() for name, tensor in exact.task_vectors.items()}
        x, lambdas = (t.detach().float().requires_grad_(t.requires_grad) for t in (self.x, self.lambdas))
        exact.router = lambda x: lambdas
        y = exact.loop(x)
        if self.what == "forward":
            return (y,)
        return y.detach(), *torch.autograd.grad(y, (x, lambdas), self.grad.float())


def check(setting: Setting, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Raises ArithmeticError where a result is further from the expected one than rounding explains."""
    for name, one, truth in zip(("y", "grad_x", "grad_routing_weights"), found, expected, strict=False):
        allowed = ROUNDINGS[setting.what] * EPS[setting.numbers] * truth.abs().max().item()
        error = (one.float() - truth).abs().max().item()
        if not error <= allowed:
            raise ArithmeticError(f"{name} differs by {error:.3g}, more than the {allowed:.3g} that rounding explains")
