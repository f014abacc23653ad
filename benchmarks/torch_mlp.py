"""The routed MLP in plain PyTorch, in the two ways that it is usually written."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


class TorchMLP:
    """A base MLP (up, activation, down), its experts' task vectors, and a router.

    `vectorised` assembles the weights of the whole batch in one matrix product and multiplies in another: what PyTorch
    does best, at the price of B merged MLPs in memory. `loop` is what published code does.
    """

    def __init__(
        self,
        base: nn.Sequential,
        experts: Sequence[nn.Sequential],
        router: Callable[[Tensor], Tensor],
        batch_reduce: bool = False,
    ):
        self.base, self.router, self.batch_reduce = base, router, batch_reduce
        self.task_vectors = {
            name: torch.stack([expert.get_parameter(name).detach() - parameter.detach() for expert in experts])
            for name, parameter in base.named_parameters()
        }

    def vectorised(self, x: Tensor) -> Tensor:
        lambdas = self._routing_weights(x)
        routes = x.view(len(lambdas), -1, x.shape[-1])  # [R, M, D]
        return self._linear(self.base[1](self._linear(routes, lambdas, "0")), lambdas, "2").view(x.shape)

    def loop(self, x: Tensor) -> Tensor:
        outputs = []
        for sample, lambdas in zip(x, self._routing_weights(x).expand(len(x), -1), strict=True):
            merged = {
                name: parameter + torch.tensordot(lambdas, self.task_vectors[name], 1)
                for name, parameter in self.base.named_parameters()
            }
            outputs.append(functional_call(self.base, merged, sample))
        return torch.stack(outputs)

    def _routing_weights(self, x: Tensor) -> Tensor:
        weights = self.router(x)  # [B, T]
        return weights.mean(dim=0, keepdim=True) if self.batch_reduce else weights

    def _linear(self, x: Tensor, lambdas: Tensor, name: str) -> Tensor:
        weight, bias = self.base.get_parameter(f"{name}.weight"), self.base.get_parameter(f"{name}.bias")
        merged = torch.addmm(weight.flatten(), lambdas, self.task_vectors[f"{name}.weight"].flatten(1))
        merged_bias = torch.addmm(bias, lambdas, self.task_vectors[f"{name}.bias"]).unsqueeze(1)
        return torch.baddbmm(merged_bias, x, merged.view(-1, *weight.shape).transpose(1, 2))
