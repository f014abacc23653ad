"""How task vectors lie to each other: their lengths (L2), and the cosines between them, module by module."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wemoe.geometry_tables import cosine_of, module_of
from wemoe.merging.rules import Sources, open_sources
from wemoe.weights import ExpertSources, Source


@torch.no_grad()
def task_vector_geometry(base_model: Source, expert_models: ExpertSources) -> dict[str, Any]:
    """Measure the task vectors of each module.

    Example:
        found = task_vector_geometry(base, {"movies": expert, "icd": another})
        found["l2"]["movies"]                  # by module, in the order of found["modules"]
        found["cosine"]["movies|icd"]

    Args:
        base_model: theta_0: a module, a state dict, or a checkpoint's folder.
        expert_models: theta_t by task, each any of these.

    Returns:
        `modules`, the paths of the modules (`module_of`); `l2`, by task a number for each module; `cosine`, by
        `first|second` for each pair of tasks in their order, the same, None where one of the two did not move. Sums
        are taken in fp64.

    Raises:
        ValueError: base and experts do not fit, or a model holds NaN or infinity.
    """
    with open_sources(base_model, expert_models) as sources:
        sources.check()
        products = _inner_products(sources)
        tasks = list(sources.experts)
    grams = np.stack(list(products.values()))  # [modules, T, T]
    lengths = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [modules, T]
    return {
        "modules": list(products),
        "l2": {task: lengths[:, t].tolist() for t, task in enumerate(tasks)},
        "cosine": {
            f"{tasks[t]}|{tasks[u]}": [cosine_of(gram[t][u], gram[t][t], gram[u][u]) for gram in grams.tolist()]
            for t, u in combinations(range(len(tasks)), 2)
        },
    }


def _inner_products(sources: Sources) -> dict[str, NDArray[np.float64]]:
    """By module, the inner products [T, T] of the task vectors."""
    products: dict[str, Tensor] = {}
    tasks = list(sources.experts)
    for name in (name for name in sources.names if name in sources.parameters):
        module = module_of(name)
        total = products.setdefault(module, torch.zeros(len(tasks), len(tasks), dtype=torch.float64))
        for rows in sources.rows(name):
            base = sources.base_tensor(name, rows).double()
            moved = torch.stack([(sources.expert_tensor(t, name, rows).double() - base).flatten() for t in tasks])
            total += (moved @ moved.T).cpu()
    return {module: product.numpy() for module, product in products.items()}
