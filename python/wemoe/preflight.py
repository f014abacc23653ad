"""Preflight: before any merging, whether base and experts fit, by name and all at once, and what the merge will take.

Names, shapes and dtypes come from headers, vocabularies and configurations from the files beside the weights. Of the
weights themselves a sample is read, for the norms of task vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from wemoe.compatibility import compare, count_dtypes
from wemoe.footprint import readable
from wemoe.matching import listed
from wemoe.merging.rules import PIECE, Sources
from wemoe.shards import largest_file
from wemoe.task_vectors import exact
from wemoe.weights import Rows, Weights

# Of two models that were trained apart, the weight matrices are about orthogonal, so that their distance is
# sqrt(2) = 1.4 of a norm. Fine-tuning moves weights by some hundredths of theirs, rarely by a fifth.
UNRELATED = 0.7  # half the distance of unrelated models
FAR_FROM_OTHERS = 10.0  # times the median of the other experts
SAMPLES = 4  # pieces that are read of each tensor


@dataclass(frozen=True)
class Model:
    """A base or an expert, as its files describe it.

    Attributes:
        label: which argument it is.
        name: as others may know it.
        model_class: name of its class in transformers.
        parameters: how many numbers are trained.
        dtypes: of its floating-point tensors, by how many there are.
        norm: of its task vector, as a share of the base's norm, over weight matrices; None for the base, and where it
            cannot be told.
    """

    label: str
    name: str | None
    model_class: str | None
    parameters: int
    dtypes: dict[str, int]
    norm: float | None = None

    def __str__(self) -> str:
        kinds = " and ".join(f"{dtype}" for dtype in self.dtypes)
        text = f"{self.label}: {self.name or 'in memory'}, {self.model_class or 'no class known'}"
        text += f", {self.parameters:,} parameters in {kinds or 'no floating-point dtype'}"
        return text if self.norm is None else f"{text}; moved by {self.norm:.3g} of the base's norm"


@dataclass(frozen=True)
class Report:
    """What preflight found.

    Attributes:
        models: the base first, then the experts.
        merged: how many tensors are merged, tied ones counted once.
        kept: the base's names of what is not merged and stays the base's: integer buffers, or parts that no expert has.
        heads: by task, the expert's names of what is kept apart as the task's head.
        left_out: by model, names of what is neither merged nor kept.
        memory: bytes that merging holds at a time, about.
        disk: bytes of what is written.
        problems: what stands against merging.
        warnings: what does not, and should be known.
    """

    models: tuple[Model, ...]
    merged: int
    kept: tuple[str, ...]
    heads: dict[str, tuple[str, ...]]
    left_out: dict[str, tuple[str, ...]]
    memory: int
    disk: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def raise_if_broken(self) -> None:
        """Raise what stands against merging, if anything does.

        Raises:
            ValueError: something does; the message lists all of it.
        """
        if self.problems:
            raise ValueError("\n".join(self.problems))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as people read it."""
        lines = [str(model) for model in self.models]
        lines.append(f"merged: {self.merged} tensors")
        if self.kept:
            lines.append(f"kept from base_model: {listed(self.kept)}")
        lines += [f"head of {task}, kept apart: {listed(names)}" for task, names in self.heads.items()]
        lines += [f"left out of {label}: {listed(names)}" for label, names in self.left_out.items()]
        lines.append(f"memory: about {readable(self.memory)}; disk: {readable(self.disk)}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"problem: {problem}" for problem in self.problems]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def preflight(sources: Sources, *, dtype: torch.dtype | None = None, max_shard_size: int | str = "5GB") -> Report:
    """Check whether base and experts fit, and estimate what merging them takes.

    Args:
        sources: base and experts; a few rows of their tensors are read.
        dtype: of what will be written; the base's own by default.
        max_shard_size: of the files that will be written.

    Returns:
        A report; `raise_if_broken` raises its problems.

    Raises:
        ValueError: `max_shard_size` is no size.
    """
    matching = sources.matching
    problems: list[str] = []
    warnings = [note for weights in (sources.base, *sources.experts.values()) for note in weights.notes]
    for weights in sources.experts.values():
        broken, different = compare(sources.base, weights)
        problems += broken
        warnings += different
    problems += (problem.text(most=None) for problem in matching.problems)
    norms: dict[str, float] = {}
    try:
        norms = task_vector_norms(sources) if not matching.problems else {}
    except ValueError as error:  # a number that is not finite, or a damaged file
        problems.append(str(error))
    warnings += _far_experts(sources, norms)
    merged = frozenset(sources.names)
    sizes = {name: _size(sources, name, dtype) for name in matching.base}
    return Report(
        models=(_describe(sources.base), *(_describe(w, norms.get(task)) for task, w in sources.experts.items())),
        merged=len(sources.names),
        kept=tuple(own for name, own in matching.base.items() if name not in merged and not matching.problems),
        heads=matching.heads,
        left_out=matching.left_out,
        memory=largest_file(sizes, max_shard_size) + _rows_held(sources),
        disk=sum(sizes.values()) + _heads_size(sources),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def task_vector_norms(sources: Sources) -> dict[str, float]:
    """Return |tau_t| / |theta_0| of every expert, over a sample of the rows of the weight matrices.

    Vectors are left out: the weights of norms are near 1 in any model, and would hide that others differ.
    """
    base, experts = 0.0, dict.fromkeys(sources.experts, 0.0)
    for name in sources.names:
        if name in sources.parameters and sources.hollow(name).dim() > 1:
            for rows in _sample(sources, name):
                base += float(exact(sources.base_tensor(name, rows)).square().sum(dtype=torch.float64))
                for task in experts:
                    tau = sources.task_vector(task, name, rows)
                    experts[task] += float(tau.square().sum(dtype=torch.float64))
    return {task: (total / base) ** 0.5 for task, total in experts.items()} if base else {}


def _sample(sources: Sources, name: str) -> Iterator[Rows]:
    rows = list(sources.rows(name))
    step = max(1, len(rows) // SAMPLES)
    yield from rows[::step][:SAMPLES]


def _far_experts(sources: Sources, norms: Mapping[str, float]) -> list[str]:
    warnings = []
    for task, norm in norms.items():
        label = sources.experts[task].label
        others = median([other for name, other in norms.items() if name != task] or [norm])
        if norm > UNRELATED:
            warnings.append(
                f"{label} may be fine-tuned from another base: its weights are {norm:.2g} norms of base_model's away, "
                "and those of models that were trained apart 1.4"
            )
        elif norm > FAR_FROM_OTHERS * others > 0:
            warnings.append(
                f"{label} may be fine-tuned from another base: its weights are {norm:.2g} norms of base_model's away, "
                f"{norm / others:.0f} times as far as the other experts'"
            )
    return warnings


def _describe(weights: Weights, norm: float | None = None) -> Model:
    parameters = sum(weights.contents[name].numel() for name in weights.parameters)
    model_class = None if weights.architecture is None else weights.architecture.model_class
    return Model(weights.label, weights.name, model_class, parameters, count_dtypes(weights), norm)


def _size(sources: Sources, name: str, dtype: torch.dtype | None) -> int:
    hollow = sources.hollow(name)
    return hollow.numel() * dtype.itemsize if dtype is not None and hollow.is_floating_point() else hollow.nbytes


def _rows_held(sources: Sources) -> int:
    """Return about what is read of the models at a time: rows of each in its own dtype and in fp32."""
    hollow = (sources.hollow(name) for name in sources.names)
    largest = max((min(tensor.numel(), max(PIECE, tensor[:1].numel())) for tensor in hollow if tensor.dim()), default=0)
    return 2 * torch.float32.itemsize * largest * (1 + len(sources.experts))


def _heads_size(sources: Sources) -> int:
    heads = sources.matching.heads
    return sum(sources.experts[task].contents[name].nbytes for task, names in heads.items() for name in names)
