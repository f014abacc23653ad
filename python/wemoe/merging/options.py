"""Options of merging that may differ from expert to expert, checked once at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wemoe.merging.transforms import check_density

PerExpert = Mapping[str, float] | Sequence[float]


def per_expert(label: str, values: PerExpert, tasks: Sequence[str]) -> dict[str, float]:
    """Return one finite number for each expert, by task.

    Args:
        label: of the argument, for messages.
        values: by task name, or in the experts' order.
        tasks: the experts' names, in their order.

    Raises:
        ValueError: `values` are not one finite number for each expert.
    """
    named = values if isinstance(values, Mapping) else dict(enumerate(values))
    wanted = list(tasks) if isinstance(values, Mapping) else list(range(len(tasks)))
    if set(named) != set(wanted):
        raise ValueError(f"{label} must hold one number for each expert, {wanted}; found {list(named)}")
    numbers = [float(named[key]) for key in wanted]  # type: ignore[index]  # keys were compared above
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{label} must be finite numbers; found {numbers}")
    return dict(zip(tasks, numbers, strict=True))


def weights_of(weights: PerExpert | None, tasks: Sequence[str]) -> dict[str, float]:
    """Return the weight of each expert's task vector, 1 by default.

    Raises:
        ValueError: `weights` are not one finite number for each expert.
    """
    return dict.fromkeys(tasks, 1.0) if weights is None else per_expert("weights", weights, tasks)


def densities_of(density: float | PerExpert, tasks: Sequence[str]) -> dict[str, float]:
    """Return the share of entries that is kept of each expert's task vector.

    Raises:
        ValueError: a share is not in (0, 1], or there is not one for each expert.
    """
    shares = (
        per_expert("density", density, tasks)
        if isinstance(density, Mapping | Sequence)
        else dict.fromkeys(tasks, density)
    )
    for share in shares.values():
        check_density(share)
    return shares
