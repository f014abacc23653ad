"""Task arithmetic: theta = theta_0 + scaling * sum_t tau_t for every parameter (arXiv 2212.04089)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from wemoe.task_vectors import Experts, Model, check_experts, check_scaling, name_experts


def task_arithmetic(base_model: Model, expert_models: Experts[Model], scaling: float = 0.3) -> Model:
    """Add the scaled sum of all task vectors to the base.

    Embeddings, norms and biases are treated like weights; tensors that are not floating point stay the base's.

    Args:
        base_model: the pre-trained model theta_0; untouched.
        expert_models: T models fine-tuned from it, a sequence or a mapping from task name; untouched.
        scaling: lambda, one number for all task vectors; 0.3 is the published default for eight tasks.

    Returns:
        A new model of the base's class, in the base's dtype and on its device.

    Raises:
        TypeError: `expert_models` is no sequence or mapping of modules.
        ValueError: there is no expert, an expert does not fit the base, a tensor is not finite, or `scaling` is not.
    """
    experts = name_experts(expert_models)
    check_experts(base_model, experts)
    check_scaling(scaling)
    base_state = base_model.state_dict()
    expert_states = [expert.state_dict() for expert in experts.values()]
    merged = copy.deepcopy(base_model)
    # state_dict() lists tied parameters under every name; the same sum is written to each
    for name, theta in merged.state_dict().items():
        if theta.is_floating_point():
            sources = (base_state[name], *(state[name] for state in expert_states))
            for piece, base, *tuned in zip(_pieces(theta), *map(_pieces, sources), strict=True):
                piece.copy_(_merge(base, tuned, scaling))
    return merged


def _pieces(tensor: Tensor, elements: int = 2**16) -> tuple[Tensor, ...]:
    """Split a tensor into views of a few rows, so that merging a large one needs no second one of its size."""
    rows = tensor.unsqueeze(0) if tensor.dim() == 0 else tensor
    return torch.split(rows, max(1, elements * len(rows) // max(1, rows.numel())))


def _merge(base: Tensor, experts: list[Tensor], scaling: float) -> Tensor:
    exact = torch.promote_types(base.dtype, torch.float32)
    theta_0 = base.to(exact)
    total = torch.zeros_like(theta_0)
    for expert in experts:
        total += expert.to(device=base.device, dtype=exact) - theta_0
    return theta_0 + scaling * total
