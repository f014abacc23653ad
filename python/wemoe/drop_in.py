"""The routed layer in place of one MLP, under the name and signature that existing code knows."""

from __future__ import annotations

from torch import Tensor, nn

from wemoe.layers import RoutedMLP
from wemoe.mlp_search import find_mlp_slots
from wemoe.mlps import linear_sizes, parts_at
from wemoe.routers import build_router
from wemoe.task_vectors import Experts, check_experts, name_experts


class WeightEnsemblingMoE(nn.Module):
    """Weight-ensembling mixture of experts in place of one MLP (WEMoE, arXiv 2402.00433).

    The signature and the numbers are those of the class of this name in FusionBench, so that existing code is
    accelerated by changing its import. Unlike there, the arguments are left as they are, and a parameter of the base
    that does not require gradients has a task vector all the same.

    Args:
        hidden_size: D, the width of the hidden states that the MLP receives.
        base_model: the pre-trained MLP: the MLP of a CLIP, GPT-2 or Llama block, or any module that applies a linear
            map, an activation and a second linear map, with a gate or without.
        expert_models: T fine-tuned MLPs of the same architecture, a sequence or a mapping from task name.
        init_lambda: the routing weight that every task starts near.
        batch_first: whether hidden states are [B, N, D]; otherwise [N, B, D].
        router_hidden_layers: depth of the router: 0 (constant), 1 or 2.
        batch_reduce: average the routing weights over the batch, one set of weights for all samples.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, the base is no MLP,
            its input width is not `hidden_size`, or the router depth is unknown.
    """

    def __init__(
        self,
        hidden_size: int,
        base_model: nn.Module,
        expert_models: Experts[nn.Module],
        init_lambda: float = 0.2,
        batch_first: bool = False,
        router_hidden_layers: int = 2,
        batch_reduce: bool = False,
    ) -> None:
        super().__init__()
        experts = name_experts(expert_models)
        check_experts(base_model, experts)
        slots = find_mlp_slots(base_model)
        base, *tuned = (parts_at(module, slots) for module in (base_model, *experts.values()))
        width, _ = linear_sizes(base.up)
        if width != hidden_size:
            raise ValueError(f"hidden_size must be the input width of base_model, {width}; found {hidden_size}")
        router = build_router(hidden_size, len(experts), init_lambda, router_hidden_layers).to(base.up.weight.device)
        self.mlp = RoutedMLP.from_parts(base, tuned, router, batch_reduce, batch_first)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map hidden states [B, N, D], or [N, B, D] without `batch_first`, to the same shape."""
        return self.mlp(hidden_states)  # type: ignore[no-any-return]
