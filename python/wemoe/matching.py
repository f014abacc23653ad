"""Which tensor of an expert belongs to which of the base, by name, and everything that stands against it.

An expert that was saved with a head holds its backbone under a prefix (`bert.encoder...`) that the base may lack, or
the other way round; transformers' `base_model_prefix` tells. Then backbones are merged, an expert's head is kept apart
as that task's, and the base's own head is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from wemoe.weights import Weights


class Problem(NamedTuple):
    """A rule that a model breaks, and where: lists of findings, each under a title or none."""

    label: str
    rule: str
    found: tuple[tuple[str, tuple[str, ...]], ...]

    def text(self, most: int | None = 5) -> str:
        """Say it in one line, with no more than so many findings of each list."""
        parts = "; ".join(f"{title}{listed(items, most)}" for title, items in self.found)
        return f"{self.label} must {self.rule}; {parts}"


@dataclass
class Matching:
    """How the names of a base and its experts belong together.

    Attributes:
        prefix: under which the base holds its backbone, where only that is merged; else empty.
        base: by the name of a tensor in the result, its name in the base: every tensor that the result has.
        aliases: by every other name in the result, the first.
        experts: by task and name in the result, the expert's name of what is merged.
        heads: by task, the expert's names of what it has beside the backbone.
        left_out: by label, names of what is neither merged nor kept.
        problems: what stands against merging.
    """

    prefix: str
    base: dict[str, str]
    aliases: dict[str, str]
    experts: dict[str, dict[str, str]] = field(default_factory=dict)
    heads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def match(base: Weights, experts: Mapping[str, Weights]) -> Matching:
    """Match the tensors of a base and its experts; whatever does not fit is listed as a problem."""
    prefix = _prefix(base, experts)
    reference = _View.of(base, prefix)
    views = {task: _View.of(expert, prefix) for task, expert in experts.items()}
    leftovers = _leftovers(base, reference, views)
    for name in leftovers:
        del reference.contents[name]
    matching = Matching(prefix if reference.is_headed else "", reference.contents, reference.aliases)
    if left_out := (*reference.outside, *leftovers.values()):
        matching.left_out[base.label] = left_out
    absent = _absent_children(reference, views, experts)
    for task, view in views.items():
        _match_expert(matching, reference, view, task, experts[task], absent)
    for task, expert in experts.items():
        matching.problems += _differences(matching, task, base, expert)
    return matching


def listed(names: tuple[str, ...] | list[str], most: int | None = 5) -> str:
    """List findings, all of them or the first few."""
    if not names:
        return "none"
    if most is None or len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


@dataclass(frozen=True)
class _View:
    """The tensors of a model, or of its backbone without the prefix, by names that other models share."""

    contents: dict[str, str]  # by name in the view, the name in the weights
    aliases: dict[str, str]  # by every other name in the view, the first
    outside: tuple[str, ...]  # names in the weights of what is not in the backbone
    is_headed: bool

    @staticmethod
    def of(weights: Weights, prefix: str) -> _View:
        start = f"{prefix}." if prefix else ""
        if not any(name.startswith(start) for name in weights.contents):
            start = ""
        contents: dict[str, str] = {}
        aliases: dict[str, str] = {}
        outside = []
        for name in weights.contents:
            inside = [each.removeprefix(start) for each in weights.names_of(name) if each.startswith(start)]
            if not inside:
                outside.append(name)
                continue
            contents[inside[0]] = name
            aliases.update(dict.fromkeys(inside[1:], inside[0]))
        return _View(contents, aliases, tuple(outside), bool(start))

    def names_of(self, name: str) -> list[str]:
        return [name, *(alias for alias, first in self.aliases.items() if first == name)]

    def find(self, name: str) -> str | None:
        """Return the name in the weights of what the view has under a name."""
        return self.contents.get(self.aliases.get(name, name))

    def children(self) -> set[str]:
        return {name.partition(".")[0] for name in (*self.contents, *self.aliases)}


def _prefix(base: Weights, experts: Mapping[str, Weights]) -> str:
    """Return the prefix of backbones, empty where models of one class, or with the same names, are matched whole."""
    models = (base, *experts.values())
    classes = {model.architecture.model_class if model.architecture is not None else None for model in models}
    names = {frozenset((*model.contents, *model.aliases)) for model in models}
    if len(names) == 1 or (len(classes) == 1 and None not in classes):
        return ""
    known = [model.architecture.prefix for model in models if model.architecture is not None]
    return next((prefix for prefix in known if prefix), "")


def _leftovers(base: Weights, reference: _View, views: Mapping[str, _View]) -> dict[str, str]:
    """Return what the base's own class does not have, and some expert neither: it is left out."""
    unknown = {name: own for name, own in reference.contents.items() if own in base.unknown}
    return {name: own for name, own in unknown.items() if not all(view.find(name) for view in views.values())}


def _absent_children(reference: _View, views: Mapping[str, _View], experts: Mapping[str, Weights]) -> set[str]:
    """Return the children of the base that no expert's class has: they stay the base's."""
    if not all(_is_known(expert) for expert in experts.values()):
        return set()
    return reference.children().difference(*(view.children() for view in views.values()))


def _is_known(weights: Weights) -> bool:
    return weights.architecture is not None and weights.architecture.model_class is not None


def _match_expert(
    matching: Matching, reference: _View, view: _View, task: str, expert: Weights, absent: set[str]
) -> None:
    found: dict[str, str] = {}
    used: set[str] = set()
    missing, untied = [], []
    for name in reference.contents:
        names = reference.names_of(name)
        own = list(dict.fromkeys(each for each in map(view.find, names) if each is not None))
        if own:
            found[name] = own[0]
            used.update(own)
            untied += [each for each in own[1:] if not _are_equal(expert, own[0], each)]
        elif name.partition(".")[0] not in absent:
            missing.append(name)
    children = reference.children()
    rest = [(name, own) for name, own in view.contents.items() if own not in used]
    beside = [own for name, own in rest if _is_known(expert) and name.partition(".")[0] not in children]
    beside += view.outside
    head = tuple(own for own in beside if _is_known(expert) and own not in expert.unknown)
    left_out = {own for own in (*beside, *(own for _, own in rest)) if own in expert.unknown or own in view.outside}
    left_out -= set(head)
    unexpected = [own for _, own in rest if own not in head and own not in left_out]
    matching.experts[task] = found
    if head:
        matching.heads[task] = head
    if left_out:
        matching.left_out[expert.label] = tuple(sorted(left_out))
    if missing or unexpected:
        lists = (("missing: ", _quoted(sorted(missing))), ("unexpected: ", _quoted(sorted(unexpected))))
        matching.problems.append(Problem(expert.label, "have the parameters of base_model", lists))
    if untied:
        own_tensors = (("found tensors of their own in ", _quoted(untied)),)
        matching.problems.append(Problem(expert.label, "tie what base_model ties", own_tensors))


def _differences(matching: Matching, task: str, base: Weights, expert: Weights) -> list[Problem]:
    """Compare the shapes and the kinds of dtype of what was matched."""
    shapes, kinds = [], []
    for name, own in matching.experts[task].items():
        wanted, found = base.contents[matching.base[name]], expert.contents[own]
        if found.shape != wanted.shape:
            shapes.append(f"{own!r} is {tuple(found.shape)}, in base_model {tuple(wanted.shape)}")
        if found.is_floating_point() != wanted.is_floating_point():
            kinds.append(f"{own!r} is {found.dtype}, in base_model {wanted.dtype}")
    rules = (("have the shapes of base_model", shapes), ("have the kind of dtype of base_model", kinds))
    return [Problem(expert.label, rule, (("", tuple(found)),)) for rule, found in rules if found]


def _are_equal(weights: Weights, first: str, second: str) -> bool:
    hollow, other = weights.contents[first], weights.contents[second]
    if hollow.is_meta and hollow is other:
        return True
    return hollow.shape == other.shape and torch.equal(weights.read(first), weights.read(second))


def _quoted(names: list[str]) -> tuple[str, ...]:
    return tuple(map(repr, names))
