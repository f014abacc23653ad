"""Configuration: what is typed and checked once at the door, and passed on as frozen objects."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from wemoe.models.families import Family
from wemoe.routed_methods import Modules, RoutedMethod

FORMAT_VERSION: Literal[2] = 2
READABLE_VERSIONS = (1, 2)

ROUTED_CHOICES = tuple(field.name for field in fields(RoutedMethod))

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # what the ops take

Sha256 = Field(pattern="^[0-9a-f]{64}$")


class Source(BaseModel):
    """A model that a routed model was made of.

    Attributes:
        name: its name on the Hugging Face Hub, or the last part of its folder's path; None where it has none.
        sha256: of its state dict (`wemoe.provenance.sha256_of_state`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    sha256: str = Sha256


class Provenance(BaseModel):
    """What a routed model was made of.

    Attributes:
        base: the pre-trained model.
        experts: by task, the fine-tuned model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Source
    experts: dict[str, Source]


class RoutingConfig(BaseModel):
    """How a model was upcycled: everything but its weights.

    Attributes:
        format_version: of the saved checkpoint.
        wemoe_version: of the library that wrote it.
        method: the method by its name, one of `wemoe.routed_methods.ROUTED_METHODS`.
        reads: what routers read, the `input` of their module or the user's `preference`.
        modules: which modules have a router.
        share_router: whether all MLPs have one router.
        prune_ratio: share of the entries of each tensor of each task vector that was removed.
        position_encoding: whether the shared router also reads which block is asking.
        base_class: name of the base's class, which `transformers` has where it is a Hugging Face model.
        absent: children that an instance of the class made from its configuration has, and the base was made
            without (`add_pooling_layer=False`, say).
        tasks: names of the T tasks, in the order of the routing weights.
        init_lambda: scaling of everything merged statically, and what routing weights start near.
        router_hidden_layers: depth of the routers.
        batch_reduce: whether routing weights are averaged over the batch.
        families: descriptions of the base's blocks, where they are not of the library's own families.
        provenance: what the model was made of; None where a checkpoint of version 1 does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[2] = FORMAT_VERSION
    wemoe_version: str | None = Field(default_factory=lambda: version("wemoe"))
    method: Literal["wemoe", "e_wemoe", "pwemoe"] = "wemoe"
    reads: Literal["input", "preference"] = "input"
    modules: Modules = "mlp"
    share_router: bool = False
    prune_ratio: float = Field(default=0.0, ge=0, lt=1)
    position_encoding: bool = False
    base_class: str
    absent: tuple[str, ...] = ()
    tasks: tuple[str, ...] = Field(min_length=1)
    init_lambda: float = Field(allow_inf_nan=False)
    router_hidden_layers: Literal[0, 1, 2]
    batch_reduce: bool
    families: tuple[Family, ...] = ()
    provenance: Provenance | None = None

    def chosen(self) -> dict[str, Any]:
        """Return the choices that plain WEMoE does not have, by name, where they were made."""
        choices = {name: getattr(self, name) for name in ROUTED_CHOICES}
        return {name: value for name, value in choices.items() if value != getattr(RoutedMethod(), name)}

    def as_json(self) -> dict[str, Any]:
        """Return what is written.

        Choices that were not made are left out. So a reader of the same format version that does not know them yet
        reads what it can, and refuses the rest by name instead of taking it for something else.
        """
        return self.model_dump(mode="json", exclude=set(ROUTED_CHOICES) - self.chosen().keys())


def check_dtype(name: str, dtype: torch.dtype | None) -> None:
    """Check that an argument is a dtype that weights can have, or None.

    Raises:
        ValueError: it is something else.
    """
    if dtype is not None and dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{name} must be one of {[str(known) for known in WEIGHT_DTYPES]}; found {dtype!r}")
