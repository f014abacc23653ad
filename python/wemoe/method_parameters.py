"""The parameters of every merging method, as a configuration file gives them: typed, checked, refused if unknown.

Static methods take mergekit's names with mergekit's meaning. Methods that read data take the keyword names of the
functions of `wemoe`. A parameter of one model overrides that of all models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from wemoe.config_sections import Count, Density, Flag, Number, Scalar, Section

Objective = Annotated[Literal["match", "entropy", "infomax"], Scalar]
Schedule = Annotated[Literal["constant", "cosine"], Scalar]
Depth = Annotated[Literal[0, 1, 2], Scalar]
Rate = Annotated[Number, Field(gt=0)]


class ModelParameters(Section):
    """Parameters of one model; none, unless the method says so."""


class ModelWeight(ModelParameters):
    """Parameters that one model of a static merge may have of its own."""

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("normalize", "lambda", "int8_mask", "rescale", "trim"),
        "belongs to the whole merge; give it in the `parameters` at the top",
    )

    weight: Number | None = None
    density: Density | None = None


class Parameters(Section):
    """Parameters of a method.

    Attributes:
        per_model: those that one model may have of its own.
        without_effect: parameters that are taken, as mergekit takes them, and change nothing.
        needs_base: whether there must be a `base_model`.
        reads_data: whether there must be tasks to read.
        has_front: whether the result is a front of models, one for every preference over the tasks.
    """

    per_model: ClassVar[type[ModelParameters]] = ModelParameters
    without_effect: ClassVar[frozenset[str]] = frozenset()
    needs_base: ClassVar[bool] = True
    reads_data: ClassVar[bool] = False
    has_front: ClassVar[bool] = False


class Static(Parameters):
    """What mergekit's methods of whole models have in common.

    Attributes:
        weight: of every model that has none of its own.
        density: share of a task vector's entries that stay, of every model that has none of its own.
        normalize: divide by the sum of the weights that take part.
        lambda_: scaling of what is added to the base.
        int8_mask: of mergekit's memory; there is no such mask here.
        rescale: make up for what is dropped.
    """

    per_model: ClassVar[type[ModelParameters]] = ModelWeight
    without_effect: ClassVar[frozenset[str]] = frozenset({"int8_mask"})

    weight: Number | None = None
    density: Density = 1.0
    normalize: Flag = False
    lambda_: Number = Field(default=1.0, alias="lambda")
    int8_mask: Flag = False
    rescale: Flag = False


class Linear(Static):
    """Weighted mean of the models, a listed base among them."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"density", "lambda", "int8_mask", "rescale"})
    needs_base: ClassVar[bool] = False

    normalize: Flag = True


class TaskArithmetic(Static):
    """Base plus the weighted sum of the task vectors."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"density", "int8_mask", "rescale"})


class Ties(Static):
    """Task vectors trimmed by magnitude; entries of the elected sign merged.

    Attributes:
        trim: what is trimmed by itself: each `tensor`, as mergekit has it, or the whole `model`, as the paper has it.
    """

    normalize: Flag = True
    trim: Annotated[Literal["tensor", "model"], Scalar] = "tensor"


class Dare(Static):
    """Task vectors whose entries are dropped at random."""

    rescale: Flag = True


class Fisher(Parameters):
    """As of `wemoe.fisher`."""

    reads_data: ClassVar[bool] = True

    estimator: Annotated[Literal["exact", "published"], Scalar] = "exact"
    examples: Count = 256
    max_outcomes: Count = 64
    normalize: Flag = True
    floor: Annotated[Number, Field(ge=0)] = 1e-6
    batch_size: Count = 32


class RegMean(Parameters):
    """As of `wemoe.regmean`."""

    reads_data: ClassVar[bool] = True

    alpha: Annotated[Number, Field(ge=0, le=1)] = 0.9
    examples: Count = 256
    batch_size: Count = 32


class Adaptive(Parameters):
    """What methods that learn on unlabeled data have in common; as of `wemoe.adapt`."""

    reads_data: ClassVar[bool] = True

    init_lambda: Number = 0.3
    steps: Count = 1000
    schedule: Schedule = "constant"
    batch_size: Count = 16


class AdaMerging(Adaptive):
    """As of `wemoe.adamerging`."""

    per: Annotated[Literal["layer", "task"], Scalar] = "layer"
    density: Density | None = None
    objective: Objective = "entropy"
    learning_rate: Rate = 1e-3


class Routed(Adaptive):
    """As of `wemoe.upcycle`, and of `wemoe.adapt` after it.

    Attributes:
        class_shares: the tolerance within which `hold_class_shares` keeps what `match` makes equal, the experts'
            answers, to the classes of the training data; by default they are taken as they are.
        anchor: the share that task arithmetic with `init_lambda`, where a WEMoE starts, has in these answers, by
            `anchor_to_start`; by default none.
    """

    router_hidden_layers: Depth = 2
    batch_reduce: Flag = False
    task_vector_dtype: Annotated[Literal["float32", "bfloat16", "float16", "float64"], Scalar] | None = None
    share_router: Flag | None = None
    prune_ratio: Annotated[Number, Field(ge=0, lt=1)] | None = None
    position_encoding: Flag = False
    objective: Objective = "match"
    class_shares: Annotated[Number, Field(gt=1)] | None = None
    anchor: Annotated[Number, Field(gt=0, lt=1)] | None = None
    learning_rate: Rate = 1e-4


class PreferenceRouted(Parameters):
    """As of `wemoe.upcycle`, and of `wemoe.pareto.train` after it; the defaults are the published ones.

    Attributes:
        train_on: labelled part that routers learn on. With `validation`, losses are measured on one half of the test
            data and accuracies on the other: for experts that know their training data by heart, of which routers learn
            nothing.
    """

    reads_data: ClassVar[bool] = True
    has_front: ClassVar[bool] = True

    modules: Annotated[Literal["mlp", "mlp+attention", "all"], Scalar] = "mlp"
    router_hidden_layers: Annotated[Literal[1, 2], Scalar] = 2
    init_lambda: Number = 0.3
    scalarization: Annotated[Literal["ls", "epo"], Scalar] = "ls"
    steps: Count = 4000
    learning_rate: Rate = 1e-2
    final_rate: Annotated[Number, Field(ge=0, le=1)] = 0.1
    concentration: Rate = 1.0
    batch_size: Count = 16
    train_on: Annotated[Literal["train", "validation"], Scalar] = "train"


PARAMETERS: dict[str, type[Parameters]] = {
    "linear": Linear,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare_linear": Dare,
    "dare_ties": Dare,
    "fisher": Fisher,
    "regmean": RegMean,
    "adamerging": AdaMerging,
    "wemoe": Routed,
    "e_wemoe": Routed,
    "pwemoe": PreferenceRouted,
}
