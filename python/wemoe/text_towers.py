"""Zero-shot heads: a contrastive model's text tower says what the classes of a task look like; no label is read.

Every template is encoded for every class; its features are normalised, averaged by class, and normalised again. An
image's logits are its cosines with the classes, times the temperature that the model was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wemoe.data.readers import load_tokenizer
from wemoe.model_folders import load_model
from wemoe.modes import evaluating
from wemoe.zero_shot import ZeroShotHead

TEMPLATES = ("a photo of a {}.",)
PLACE = "{}"  # of a class in a template
TEXTS = 256  # that are encoded at a time
WITHOUT_PROJECTION = ("siglip", "siglip2")  # model types whose towers give features of one width


def zero_shot_head(
    model: PreTrainedModel | str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase | None,
    classes: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> ZeroShotHead:
    """Build the head of a task from the names of its classes.

    Args:
        model: a CLIP or a SigLIP with both towers (or a model with their interface), or its folder or repository.
        tokenizer: the model's own; where the model is given by name it may be None, and is loaded from there.
        classes: what to call each class in a text, in the order of the labels.
        templates: texts with `{}` in the place of the class.

    Returns:
        A frozen head in fp32, on the model's device, for the pooled output of the model's vision tower or of any that
        was fine-tuned from it. SigLIP's bias is the same for all classes and left out.

    Raises:
        OSError: there is no such model.
        TypeError: a model in memory comes without its tokenizer.
        ValueError: the model has no text tower, there is no class or no template, or a template has no place for one.
    """
    _check_texts(classes, templates)
    if not isinstance(model, PreTrainedModel):
        name = os.fspath(model)
        tokenizer = tokenizer or load_tokenizer(name)
        model = load_model(name, "model", torch.float32)
    if tokenizer is None:
        raise TypeError("tokenizer must be given with a model in memory; found None")
    towers: Any = check_towers(model, "model")
    texts = [template.replace(PLACE, name) for name in classes for template in templates]
    with evaluating(model), torch.no_grad():
        features = torch.cat(
            [_encoded(towers, tokenizer, texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
        )
    by_class = F.normalize(features, dim=-1).view(len(classes), len(templates), -1)  # [C, templates, E]
    projection = None if _is_without_projection(model) else towers.visual_projection.weight.float()
    scale = towers.logit_scale.detach().float().exp().reshape(())
    return ZeroShotHead(F.normalize(by_class.mean(dim=1), dim=-1), scale, projection)


class TextTowers:
    """Models with a text tower, by name; each is loaded once, when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    def head(self, name: str, key: str, classes: Sequence[str], templates: Sequence[str]) -> ZeroShotHead:
        """Build a head as `zero_shot_head` does.

        Args:
            name: folder or repository of the model and its tokenizer.
            key: of the configuration, which names the model, for messages.
            classes: as in `zero_shot_head`.
            templates: as in `zero_shot_head`.

        Raises:
            OSError: there is no such model.
            ValueError: it has no text tower or no tokenizer.
        """
        if name not in self._loaded:
            model = check_towers(load_model(name, key, torch.float32), f"{key}, {name!r},")
            self._loaded[name] = model, load_tokenizer(name)
        return zero_shot_head(*self._loaded[name], classes, templates)


def check_towers(model: PreTrainedModel, label: str) -> PreTrainedModel:
    """Check that a model has what a zero-shot head is made of, and return it.

    Raises:
        ValueError: it has not.
    """
    needed = ["get_text_features", "logit_scale"] + ["visual_projection"] * (not _is_without_projection(model))
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise ValueError(
            f"{label} must have a text tower, as CLIP and SigLIP have; {type(model).__name__} lacks {missing}"
        )
    return model


def _check_texts(classes: Sequence[str], templates: Sequence[str]) -> None:
    for label, found in (("classes", classes), ("templates", templates)):
        if isinstance(found, str) or not found:
            raise ValueError(f"{label} must be a list of at least one text; found {found!r}")
    lacking = [template for template in templates if PLACE not in template]
    if lacking:
        raise ValueError(f"templates must have {PLACE!r} where the class stands; found {lacking[0]!r}")


def _encoded(towers: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Features of some texts [len(texts), E], in fp32."""
    is_fixed = _is_without_projection(towers)  # such models were trained on texts of one length, padding included
    encoded = tokenizer(
        texts,
        padding="max_length" if is_fixed else True,
        truncation=True,
        max_length=towers.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    names = ["input_ids"] if is_fixed else ["input_ids", "attention_mask"]
    found = towers.get_text_features(**{name: encoded[name].to(towers.device) for name in names})
    return cast("Tensor", found.pooler_output).float()


def _is_without_projection(model: PreTrainedModel) -> bool:
    return model.config.model_type in WITHOUT_PROJECTION
