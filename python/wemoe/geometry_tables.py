"""The geometry of task vectors as tables: which modules there are, and what holds of several of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def module_of(name: str) -> str:
    """The path of the module that a parameter is counted to.

    Inside a numbered block that is the block's child, so that an attention or an MLP is one module:
    `encoder.layers.3.mlp.fc1.weight` belongs to `encoder.layers.3.mlp`. Elsewhere it is the module that holds the
    parameter; one that the model itself holds is called by its own name.
    """
    path = name.split(".")[:-1]
    numbers = [index for index, part in enumerate(path) if part.isdecimal()]
    return ".".join(path[: numbers[-1] + 2] if numbers else path) or name


def kind_of(module: str) -> str:
    """The path of a module with `*` for the numbers in it, which the same modules of all blocks share."""
    return ".".join("*" if part.isdecimal() else part for part in module.split("."))


def joined_cosines(geometry: Mapping[str, Any], modules: Sequence[int]) -> list[list[float | None]]:
    """Cosines [T, T] of the task vectors of several modules taken as one, from those of each.

    Args:
        geometry: what `task_vector_geometry` returns, or JSON of it.
        modules: their indices.
    """
    tasks = list(geometry["l2"])
    lengths = {task: [geometry["l2"][task][index] for index in modules] for task in tasks}
    whole = {task: sum(length**2 for length in lengths[task]) for task in tasks}
    table: list[list[float | None]] = [[1.0 if whole[task] > 0 else None for _ in tasks] for task in tasks]
    for (t, first), (u, second) in combinations(enumerate(tasks), 2):
        cosines = [geometry["cosine"][f"{first}|{second}"][index] or 0.0 for index in modules]
        product = sum(map(math.prod, zip(cosines, lengths[first], lengths[second], strict=True)))
        table[t][u] = table[u][t] = cosine_of(product, whole[first], whole[second])
    return table


def modules_by_kind(geometry: Mapping[str, Any]) -> dict[str, list[int]]:
    """The indices of the modules of each kind that stands in several blocks, those of all other modules, and of all."""
    kinds: dict[str, list[int]] = {}
    for index, module in enumerate(geometry["modules"]):
        kinds.setdefault(kind_of(module), []).append(index)
    repeated = {kind: indices for kind, indices in kinds.items() if len(indices) > 1}
    rest = [index for kind, indices in kinds.items() if kind not in repeated for index in indices]
    named = repeated | ({"the rest": rest} if rest and repeated else {})
    return {"all modules": list(range(len(geometry["modules"])))} | named


def cosine_of(product: float, first: float, second: float) -> float | None:
    """Cosine from an inner product and two squared lengths; None where one of them is 0."""
    if first == 0 or second == 0:
        return None
    return min(1.0, max(-1.0, product / math.sqrt(first * second)))
