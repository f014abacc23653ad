"""Configuration: what is typed and checked once at the door, and passed on as frozen objects."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wemoe.models.families import Family

FORMAT_VERSION: Literal[1] = 1


class RoutingConfig(BaseModel):
    """How a model was upcycled: everything but its weights.

    Attributes:
        format_version: of the saved checkpoint.
        method: who makes the routing weights.
        base_class: name of the base's class, which `transformers` has where it is a Hugging Face model.
        absent: children that an instance of the class made from its configuration has, and the base was made
            without (`add_pooling_layer=False`, say).
        tasks: names of the T tasks, in the order of the routing weights.
        init_lambda: scaling of everything merged statically, and what routing weights start near.
        router_hidden_layers: depth of the routers.
        batch_reduce: whether routing weights are averaged over the batch.
        families: descriptions of the base's blocks, where they are not of the library's own families.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    method: Literal["wemoe"] = "wemoe"
    base_class: str
    absent: tuple[str, ...] = ()
    tasks: tuple[str, ...] = Field(min_length=1)
    init_lambda: float = Field(allow_inf_nan=False)
    router_hidden_layers: Literal[0, 1, 2]
    batch_reduce: bool
    families: tuple[Family, ...] = ()
