"""Trimming task vectors that are read a few rows at a time: passes over the models find where to cut them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from wemoe.merging.rules import Sources
from wemoe.merging.transforms import Keeper, count_equal, find_cuts, share_of, widest

NO_NORM = 1e-7  # a tensor of less than this is not rescaled, as mergekit has it


class Trimming:
    """What is kept of task vectors: for each tensor, what zeroes the rest of it, by task.

    Only parameters are trimmed, and only where the density is less than 1.
    """

    def __init__(self, keepers: Callable[[str], dict[str, Keeper]]) -> None:
        self.keepers = keepers

    @staticmethod
    def of_models(sources: Sources, densities: Mapping[str, float]) -> Trimming:
        """Trim every task vector as a whole, whichever tensor its largest entries are in."""
        names = [name for name in sources.names if name in sources.parameters]
        size = sum(sources.hollow(name).numel() for name in names)
        kept = {task: share_of(density, size) for task, density in densities.items() if density < 1}
        cuts = find_cuts(lambda: _rows_by_task(sources, names, kept), kept, _widest(sources))
        cut_off = {task: cut for task, cut in cuts.items() if cut.found > cut.equal}
        equal = {name: {task: cuts[task].equal for task in kept} for name in names}
        if cut_off:
            left = {task: cut.equal for task, cut in cut_off.items()}
            for name in names:
                equal[name].update(left)
                for task, tau in _rows_by_task(sources, [name], cut_off):
                    left[task] -= min(count_equal(tau, cut_off[task]), left[task])

        def keepers(name: str) -> dict[str, Keeper]:
            return {task: Keeper(cuts[task], count) for task, count in equal.get(name, {}).items()}

        return Trimming(keepers)

    @staticmethod
    def of_tensors(sources: Sources, densities: Mapping[str, float]) -> Trimming:
        """Trim every tensor of a task vector for itself; at least one of its entries is kept."""
        trimmed = {task: density for task, density in densities.items() if density < 1}

        def keepers(name: str) -> dict[str, Keeper]:
            if name not in sources.parameters:
                return {}
            size = sources.hollow(name).numel()
            kept = {task: min(size, max(1, share_of(density, size))) for task, density in trimmed.items()}
            cuts = find_cuts(lambda: _rows_by_task(sources, [name], kept), kept, _widest(sources))
            return {task: Keeper(cut, cut.equal) for task, cut in cuts.items()}

        return Trimming(keepers)


def _rows_by_task(sources: Sources, names: Sequence[str], tasks: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the rows of task vectors with their task; the base's rows are read once for all tasks."""
    for name in names:
        for rows in sources.rows(name):
            for task in tasks:
                yield task, sources.task_vector(task, name, rows)


def norm_ratios(sources: Sources, name: str, keepers: Mapping[str, Keeper]) -> dict[str, float]:
    """Return by what the kept entries of one tensor are to be multiplied for the norm of the whole tensor."""
    whole, kept = dict.fromkeys(keepers, 0.0), dict.fromkeys(keepers, 0.0)
    for task, tau in _rows_by_task(sources, [name], keepers):
        whole[task] += float(tau.abs().sum(dtype=torch.float64))
        kept[task] += float(keepers[task].keep(tau).abs().sum(dtype=torch.float64))
    return {task: whole[task] / kept[task] for task in keepers if min(whole[task], kept[task]) >= NO_NORM}


def _widest(sources: Sources) -> torch.dtype:
    return widest(
        tensor for weights in (sources.base, *sources.experts.values()) for tensor in weights.contents.values()
    )
