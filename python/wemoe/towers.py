"""One tower of a model of two, as the base of experts that are no more than that: the vision tower of a CLIP.

Such a base is opened and loaded as the tower alone, so that nothing else has to know of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from wemoe.weights import Architecture, Rows, Weights

CONFIG = "_config"  # `vision_config` describes `vision_model`
MODULE = "_model"


class Tower(Weights):
    """The weights of one tower, under the names that it has by itself.

    Attributes:
        path: of the tower in the whole model.
    """

    def __init__(self, whole: Weights, path: str, architecture: Architecture) -> None:
        self.path = path
        self._whole = whole
        self._start = f"{path}."
        inside = {name.removeprefix(self._start): name for name in whole.contents if name.startswith(self._start)}
        super().__init__(
            whole.label,
            {name: whole.contents[own] for name, own in inside.items()},
            {
                alias.removeprefix(self._start): first.removeprefix(self._start)
                for alias, first in whole.aliases.items()
                if alias.startswith(self._start) and first.startswith(self._start)
            },
            [name for name, own in inside.items() if own in whole.parameters],
            architecture,
            whole.folder,
        )
        self.name = whole.name
        self.unknown = frozenset(name for name, own in inside.items() if own in whole.unknown)
        self.notes = whole.notes

    def read(self, name: str, rows: Rows = ...) -> Tensor:
        """Return a tensor, or some of its rows."""
        return self._whole.read(self._start + name, rows)


def fitting_part(base: Weights, experts: Iterable[Weights]) -> Weights:
    """Return what the experts were fine-tuned from: the base, or the one of its towers that all of them are."""
    kinds = {str(_config(expert).get("model_type")) for expert in experts}
    own = _config(base)
    if len(kinds) != 1 or own.get("model_type") in kinds:
        return base
    kind = kinds.pop()
    for key, described in own.items():
        path = key.removesuffix(CONFIG) + MODULE
        is_kind = key.endswith(CONFIG) and isinstance(described, dict) and described.get("model_type") == kind
        if is_kind and any(name.startswith(f"{path}.") for name in base.contents):
            name = class_name(kind)
            return Tower(base, path, Architecture(name, described, "", name or ""))
    return base


def class_name(model_type: str) -> str | None:
    """Return the name of the class that a model type has without a head, where there is one and no choice."""
    found = MODEL_MAPPING_NAMES.get(model_type)
    return found if isinstance(found, str) else None


def describes_tower(config: PreTrainedConfig, kind: type[PreTrainedModel]) -> bool:
    """Whether a configuration is that of a model of which one tower is of a class."""
    wanted = cast("type[PreTrainedConfig]", kind.config_class)
    parts = (value for key, value in vars(config).items() if key.endswith(CONFIG))
    return not isinstance(config, wanted) and any(isinstance(part, wanted) for part in parts)


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """Return what reads the images of a model of two towers; any other model as it is."""
    tower = getattr(model, "vision_model", None)
    is_one_of_two = isinstance(tower, PreTrainedModel) and hasattr(model, "text_model")
    return cast("PreTrainedModel", tower) if is_one_of_two else model


def _config(weights: Weights) -> dict[str, Any]:
    return {} if weights.architecture is None else weights.architecture.config
