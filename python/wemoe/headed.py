"""A backbone under the head of one task: a model of the headed class that shares the backbone's parameters.

The backbone is a plain model (a merged one, say) or a routed model; several tasks cost one backbone.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast, overload

import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from wemoe.heads import TaskHead, backbone_path, head_tensors, plain_class
from wemoe.models import Family, find_blocks
from wemoe.packed_layers import PackedLinear
from wemoe.routed_classes import RoutedBlock, RoutedModel
from wemoe.upcycling import absent_children, as_routed

LABEL = "head"
Backbone = TypeVar("Backbone", bound=PreTrainedModel)


@overload
def with_head(model: RoutedModel, head: PreTrainedModel | TaskHead) -> RoutedModel: ...
@overload
def with_head(model: PreTrainedModel, head: PreTrainedModel | TaskHead) -> PreTrainedModel: ...
def with_head(model: PreTrainedModel, head: PreTrainedModel | TaskHead) -> PreTrainedModel:
    """Put a task's head on a backbone, plain or routed.

    The result is a model of the headed class, with the head's configuration, whose backbone is the model itself:
    parameters are shared, so that several tasks cost one backbone, and what trains, moves or saves one of them meets
    the same weights. Of a routed model it is a routed model too: `save_pretrained`, `wemoe.from_pretrained`, pipelines
    and `Trainer` take it. A head's weight that is tied to its backbone (a decoder's, to the word embeddings) is tied
    to the model instead.

    Args:
        model: a backbone (`BertModel`, say): a plain one, or a routed one (`wemoe.upcycle(base.base_model, ...)`).
        head: a model of a headed class over a backbone of the class and the sizes of the model, or of the routed
            model's base (`BertForSequenceClassification` for `BertModel`); untouched. Or what `wemoe.load_heads` gives
            for one.

    Returns:
        A model of the headed class in the model's mode. What it has beside the backbone is a copy of the head's,
        frozen, in the model's dtype and on its device. Where the two backbones have other children (a pooler that only
        one of them has), the headed class decides: its own are kept, the model's extra ones left out.

    Raises:
        TypeError: `model` is no Hugging Face model, or `head` neither a headed model nor a `TaskHead`.
        ValueError: `head` has no backbone of the model's class, one of other sizes, or shares a tensor with it in a way
            that its class does not know.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a model of transformers, plain or routed; found {type(model).__name__}")
    if isinstance(head, TaskHead):
        head = _headed_model(head, model)
    elif not isinstance(head, PreTrainedModel):
        raise TypeError(f"{LABEL} must be a headed model or a wemoe.TaskHead; found {type(head).__name__}")
    path = backbone_path(head, model, LABEL)
    backbone = cast("PreTrainedModel", head.get_submodule(path))
    _check_sizes(model, backbone)
    headed = copy.deepcopy(head, {id(backbone): _as_backbone(model, backbone)})
    for tensor in head_tensors(headed, path, model).values():
        tensor.requires_grad_(False)
        tensor.data = tensor.data.to(model.device, model.dtype if tensor.is_floating_point() else None)
    headed.tie_weights()
    _check_ties(head, headed, path)
    headed.__class__ = plain_class(headed)  # the head's model may be routed
    if isinstance(model, RoutedModel):
        headed = _routed(headed, model)
    headed.train(model.training)
    return headed


def _headed_model(head: TaskHead, model: PreTrainedModel) -> PreTrainedModel:
    """Build a headed model of a kept head; its backbone is left empty."""
    kind = getattr(transformers, head.model_class, None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(f"{LABEL}.model_class must be a model class of transformers; found {head.model_class!r}")
    config_class = cast("type[PreTrainedConfig]", kind.config_class)
    with no_init_weights():
        headed = kind(config_class.from_dict(head.config))
    headed.tie_weights()
    places = head_tensors(headed, backbone_path(headed, model, LABEL), model)
    expected, found = ({name: t.shape for name, t in tensors.items()} for tensors in (places, head.tensors))
    if expected != found:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(
            f"{LABEL}.tensors must be those of a {head.model_class} beside its backbone; "
            f"missing, unexpected or misshapen: {names[:5]}"
        )
    for name, place in places.items():
        place.data = head.tensors[name]
    return headed


def _check_sizes(model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """Check that a head's backbone has the blocks of the model, and the shapes of all that is not routed."""
    ours, theirs = _plain_shapes(model), _plain_shapes(backbone)
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise ValueError(
                f"{LABEL} must have a backbone of the model's sizes; {name!r} is {theirs[name]}, "
                f"in the model {ours[name]}"
            )
    families = model.routing_config.families if isinstance(model, RoutedModel) else ()
    blocks = [_count_blocks(each, families) for each in (backbone, model)]
    if blocks[0] != blocks[1]:
        raise ValueError(f"{LABEL} must have as many blocks as the model; found {blocks[0]}, in the model {blocks[1]}")


def _count_blocks(model: nn.Module, families: tuple[Family, ...]) -> int:
    routed = sum(isinstance(module, RoutedBlock) for module in model.modules())
    return routed or len(find_blocks(model, families))


def _plain_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        f"{path}.{name}": tuple(parameter.shape)
        for path, child in module.named_modules()
        if not isinstance(child, PackedLinear)
        for name, parameter in child.named_parameters(recurse=False)
    }


def _as_backbone(model: Backbone, backbone: PreTrainedModel) -> Backbone:
    """Return the model, or, where the backbone has other children, a twin of it that has these."""
    ours, wanted = dict(model.named_children()), dict(backbone.named_children())
    if ours.keys() == wanted.keys():
        return model
    children = dict.fromkeys(ours) | {name: ours.get(name, copy.deepcopy(child)) for name, child in wanted.items()}
    twin = type(model).__new__(type(model))
    # a child that a model is made without may be an attribute that is None, and would hide the child that it gains
    twin.__dict__ = {name: value for name, value in vars(model).items() if name not in wanted} | {"_modules": children}
    if isinstance(twin, RoutedModel):
        twin.routing_config = twin.routing_config.model_copy(update={"absent": absent_children(twin)})
    return twin


def _check_ties(head: PreTrainedModel, headed: PreTrainedModel, path: str) -> None:
    """Check that what a head shares with its backbone it shares with the model now."""
    for name in _tied_to(head, path) - _tied_to(headed, path):
        raise ValueError(
            f"{LABEL} must share tensors with its backbone in the way of its class alone (`tie_weights`); "
            f"{type(head).__name__} also shares {name!r}"
        )


def _tied_to(headed: PreTrainedModel, path: str) -> set[str]:
    """Names of the parameters outside the backbone that are the backbone's own."""
    inner = {id(parameter) for parameter in headed.get_submodule(path).parameters()}
    named = headed.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in inner and not name.startswith(f"{path}.")}


def _routed(headed: PreTrainedModel, model: RoutedModel) -> RoutedModel:
    """Give a headed model the class of a routed model."""
    changes: dict[str, Any] = {"base_class": type(headed).__name__, "absent": absent_children(headed)}
    return cast("RoutedModel", as_routed(headed, model.routing_config.model_copy(update=changes)))
