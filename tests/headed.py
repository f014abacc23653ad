"""Tiny headed models: experts whose heads differ in size, and a routed model of their backbones."""

import copy

from torch import Tensor
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    CLIPConfig,
    CLIPForImageClassification,
    GPT2ForSequenceClassification,
    GPT2Model,
    PreTrainedModel,
    ViTForImageClassification,
)

import wemoe
from models import fine_tuned, inputs_of, randomised, tiny_bert, tiny_clip, tiny_vit
from tiny_families import FAMILIES, padded_texts


def with_labels(config, labels: int):
    config = copy.deepcopy(config)
    config.id2label = {label: f"label {label}" for label in range(labels)}
    config.label2id = {name: label for label, name in config.id2label.items()}
    return config


def clip_classifier(labels: int) -> CLIPForImageClassification:
    vision = tiny_clip().config.to_dict()
    return CLIPForImageClassification(with_labels(CLIPConfig(vision_config=vision, text_config={}), labels)).eval()


HEADED = {
    "bert": lambda labels: BertForSequenceClassification(with_labels(tiny_bert().config, labels)).eval(),
    "bert tokens": lambda labels: BertForTokenClassification(with_labels(tiny_bert().config, labels)).eval(),
    "clip": clip_classifier,
    "gpt2": lambda labels: GPT2ForSequenceClassification(with_labels(FAMILIES["gpt2"].make().config, labels)).eval(),
    "vit": lambda labels: ViTForImageClassification(with_labels(tiny_vit().config, labels)).eval(),
}


def backbone(headed: PreTrainedModel) -> PreTrainedModel:
    """What a user upcycles: CLIP's classifier does not know its backbone by transformers' `base_model`."""
    return headed.vision_model if isinstance(headed, CLIPForImageClassification) else headed.base_model


def inputs_for(headed: PreTrainedModel) -> dict[str, Tensor]:
    body = backbone(headed)
    return padded_texts() if isinstance(body, GPT2Model) else inputs_of(body)


def headed_experts(kind: str) -> dict[str, PreTrainedModel]:
    """Two experts of one base, with heads of 3 and of 2 labels."""
    make = HEADED[kind]
    first = fine_tuned(make(3), seed=1)
    second = make(2)
    backbone(second).load_state_dict(backbone(first).state_dict())
    return {"three": first, "two": fine_tuned(second, seed=2)}


def routed_backbone(experts: dict[str, PreTrainedModel], **options):
    base = fine_tuned(backbone(experts["three"]), seed=3)
    return randomised(wemoe.upcycle(base, {task: backbone(expert) for task, expert in experts.items()}, **options))
