"""What every static method works on: a base and its experts, read a few rows at a time, and rules of merging.

A rule gives the merged tensor of a name when it is asked. It may have gone through the tensors before, to count say,
but never holds more of them than a few rows of each model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wemoe.heads import TaskHead
from wemoe.matching import match
from wemoe.merging.signatures import Merged, Model, keeps_kind
from wemoe.task_vectors import check_range, exact, is_finite, name_experts
from wemoe.towers import Tower, fitting_part
from wemoe.weights import ExpertSources, Rows, Source, Weights, open_weights

Rule = Callable[[str], Tensor]  # name to merged tensor, in fp32 or better
MergeRows = Callable[[Rows], Tensor]
PIECE = 2**16  # elements that are merged at a time


class Sources:
    """A base and its experts, opened and matched by name.

    Attributes:
        base: theta_0.
        experts: theta_t by task.
        matching: which tensor belongs to which, and what stands against merging.
        names: of what is merged: floating-point tensors, tied ones once; buffers among them.
        parameters: which of the names are parameters.
        device: where rules work; None for the base's own.
    """

    def __init__(self, base: Weights, experts: Mapping[str, Weights], device: torch.device | str | None = None) -> None:
        self.base = base
        self.experts = dict(experts)
        self.device = device
        self.matching = match(base, experts)
        self.names = tuple(
            name
            for name, own in self.matching.base.items()
            if base.contents[own].is_floating_point() and all(name in found for found in self.matching.experts.values())
        )
        self.parameters = frozenset(name for name in self.names if self.matching.base[name] in base.parameters)
        self._last: tuple[str, Rows, Tensor] | None = None

    def check(self) -> None:
        """Check that base and experts fit.

        Raises:
            ValueError: they do not; the message names the experts and the tensors.
        """
        if self.matching.problems:
            raise ValueError("\n".join(problem.text() for problem in self.matching.problems))

    def hollow(self, name: str) -> Tensor:
        """Return a tensor of the base for its shape and dtype."""
        return self.base.contents[self.matching.base[name]]

    def device_of(self, name: str) -> torch.device:
        """Return the device on which a tensor is merged."""
        hollow = self.hollow(name)
        return torch.device(self.device or ("cpu" if hollow.is_meta else hollow.device))

    def rows(self, name: str) -> Iterator[Rows]:
        """Return the rows of a tensor, a few at a time."""
        return self.base.rows(self.matching.base[name], PIECE)

    def base_tensor(self, name: str, rows: Rows = ...) -> Tensor:
        """Return a tensor of the base, or some rows of it, as it is.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        if self._last is None or self._last[:2] != (name, rows):
            own = self.matching.base[name]
            tensor = _read(self.base, own, rows)
            self._last = name, rows, tensor if self.device is None else tensor.to(self.device)
        return self._last[2]

    def expert_tensor(self, task: str, name: str, rows: Rows = ...) -> Tensor:
        """Return a tensor of an expert, or some rows of it, on the device of the base's.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        tensor = _read(self.experts[task], self.matching.experts[task][name], rows)
        return tensor.to(self.device_of(name))

    def task_vector(self, task: str, name: str, rows: Rows = ...) -> Tensor:
        """Return theta_t - theta_0 for one tensor, or some rows of it, in fp32 or better.

        Raises:
            ValueError: one of them holds NaN or infinity.
        """
        tuned, theta = self.expert_tensor(task, name, rows), self.base_tensor(name, rows)
        return exact(tuned) - exact(theta)

    def heads(self) -> dict[str, TaskHead]:
        """Read what experts have beside their backbones."""
        found = {}
        for task, names in self.matching.heads.items():
            architecture = self.experts[task].architecture
            if architecture is not None and architecture.model_class is not None:
                tensors = {name: _read(self.experts[task], name, ...) for name in names}
                found[task] = TaskHead(architecture.model_class, architecture.config, tensors)
        return found


@contextmanager
def open_sources(
    base: Source,
    experts: ExpertSources,
    device: torch.device | str | None = None,
) -> Iterator[Sources]:
    """Open a base and its experts; whether they fit is for `Sources.check`, or for `preflight`, to say.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: one cannot be opened (`wemoe.weights.open_weights`).
    """
    named = name_experts(experts)
    with ExitStack() as stack:
        opened = stack.enter_context(open_weights(base, "base_model"))
        model = base if isinstance(base, nn.Module) else opened.folder  # of adapters
        tuned = {
            task: stack.enter_context(open_weights(expert, f"expert_models[{task!r}]", model))
            for task, expert in named.items()
        }
        yield Sources(fitting_part(opened, tuned.values()), tuned, device)


class RowRule:
    """A rule that merges a few rows of a tensor at a time, from the first to the last.

    Args:
        sources: what is merged; checked here.
        start: gives, for a name, the function that merges rows of that tensor.

    Raises:
        ValueError: base and experts do not fit.
    """

    def __init__(self, sources: Sources, start: Callable[[str], MergeRows]) -> None:
        sources.check()
        self._sources = sources
        self._start = start

    def __call__(self, name: str) -> Tensor:
        """Return the merged tensor, in fp32 or better."""
        hollow = self._sources.hollow(name)
        dtype = torch.promote_types(hollow.dtype, torch.float32)
        merged = torch.empty(hollow.shape, dtype=dtype, device=self._sources.device_of(name))
        self.into(name, merged)
        return merged

    def into(self, name: str, out: Tensor) -> None:
        """Write the merged tensor into one that is there, in that one's dtype."""
        merge_rows = self._start(name)
        for rows in self._sources.rows(name):
            out[rows].copy_(merge_rows(rows))


@keeps_kind
def merge(base_model: Source, expert_models: ExpertSources, make_rule: Callable[[Sources], Rule]) -> Merged:
    """Merge models by a rule that is made of their sources.

    Returns:
        A new module like the base's where that is a module, with its backbone alone where only that is merged; else a
        state dict.
    """
    with open_sources(base_model, expert_models) as sources:
        rule = make_rule(sources)
        if isinstance(base_model, nn.Module):
            return merged_copy(merged_part(base_model, sources), sources, rule)
        return _merged_state(sources, rule)


def merged_part(base_model: nn.Module, sources: Sources) -> nn.Module:
    """Return what is merged of a base: all of it, its backbone alone, or one of its towers."""
    if isinstance(sources.base, Tower):
        return base_model.get_submodule(sources.base.path)
    if sources.matching.prefix and isinstance(base_model, PreTrainedModel):
        return base_model.base_model
    return base_model


@torch.no_grad()
def merged_copy(base: Model, sources: Sources, rule: Rule) -> Model:
    """Copy what is merged of a base, and write into the copy what a rule gives, one tensor after the other.

    Raises:
        ValueError: as `fill`.
    """
    model = copy.deepcopy(base)
    state = model.state_dict()
    for name in sources.names:
        fill(rule, name, state[name])
    return model


@torch.no_grad()
def _merged_state(sources: Sources, rule: Rule) -> dict[str, Tensor]:
    matching, merged = sources.matching, frozenset(sources.names)
    state: dict[str, Tensor] = {}
    for name, own in matching.base.items():
        if name in merged:
            state[name] = torch.empty_like(sources.hollow(name), device=sources.device_of(name))
            fill(rule, name, state[name])
        else:
            state[name] = sources.base.read(own).clone()
    return state | {alias: state[first] for alias, first in matching.aliases.items()}


def fill(rule: Rule, name: str, out: Tensor) -> None:
    """Write what a rule gives for a name into a tensor that is there, in that one's dtype.

    Raises:
        ValueError: a model holds NaN or infinity, or a number is beyond the range of float16.
    """
    if isinstance(rule, RowRule):
        rule.into(name, out)
    else:
        out.copy_(rule(name))
    check_range(f"the merged {name!r}", out)


def _read(weights: Weights, name: str, rows: Rows) -> Tensor:
    tensor = weights.read(name, rows)
    if tensor.is_floating_point() and not is_finite(tensor):
        raise ValueError(f"{weights.label} must hold finite numbers; found NaN or infinity in: {name!r}")
    return tensor
