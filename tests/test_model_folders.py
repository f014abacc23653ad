"""Plain models from folders: loaded whole or not at all, and taken apart into backbone and head."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertModel

from headed import HEADED, backbone
from models import tiny_vit
from task_folders import text_folders
from tiny_families import FAMILIES
from tiny_texts import tiny_base
from wemoe.model_folders import backbone_of, load_base, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_folders(tmp_path_factory.mktemp("models"))


def damaged(folder, target, change):
    """A copy of a model's folder with other tensors."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_no_weight_is_random(folder, tmp_path):
    def without(name):
        return lambda tensors: tensors.pop(name)

    lacking = damaged(folder / "colours", tmp_path / "a", without("classifier.bias"))
    message = r"the expert must have every tensor of its class, BertForSeq.*; missing: \['classifier.bias'\]"
    with pytest.raises(ValueError, match=message):
        load_model(lacking, "the expert")
    base = damaged(folder / "base", tmp_path / "b", without("pooler.dense.weight"))
    with pytest.raises(ValueError, match=r"every tensor of the backbone, BertModel; missing: \['bert.pooler.dense.we"):
        load_base(base, load_model(str(folder / "colours"), "x"))


def test_weights_of_other_shapes_are_refused(folder, tmp_path):
    def change(tensors):
        tensors["classifier.bias"] = torch.zeros(5)

    with pytest.raises(ValueError, match="the expert must fit its own configuration; found: "):
        load_model(damaged(folder / "colours", tmp_path / "a", change), "the expert")


def test_a_configuration_must_name_a_class(folder, tmp_path):
    nameless = damaged(folder / "colours", tmp_path / "a", lambda _: None)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"architectures": None}))
    with pytest.raises(ValueError, match=r"the expert must name a model class of transformers .*; found \[\]"):
        load_model(nameless, "the expert")
    file = str(folder / "colours" / "model.safetensors")
    with pytest.raises(ValueError, match=r"the expert must be the folder of a model, .* found the file '.*safetensors"):
        load_model(file, "the expert")


def test_a_base_may_have_another_head(folder, tmp_path):
    """A base that was trained to fill masks gives the backbone, with the pooler that its files hold."""
    base, tokenizer = tiny_base()
    pretrained = BertForMaskedLM(base.config)
    pretrained.bert = base
    pretrained.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    found = load_base(str(tmp_path / "base"), load_model(str(folder / "colours"), "x"))
    assert type(found) is BertModel
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_base_of_another_architecture_is_refused(folder, tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="base_model must have the experts' backbone, BertModel; found ViTModel"):
        load_base(str(tmp_path), load_model(str(folder / "colours"), "x"))


def test_a_model_has_one_backbone():
    for make in HEADED.values():
        model = make(2)
        assert backbone_of(model)[1] is backbone(model)
        assert backbone_of(backbone(model)) == (None, backbone(model))
    with pytest.raises(ValueError, match=r"T5ForConditionalGeneration has \['encoder', 'decoder'\]"):
        backbone_of(FAMILIES["t5"].make())
