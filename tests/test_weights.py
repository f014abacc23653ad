"""Weights: from modules, state dicts and folders the same tensors, read one at a time, and every broken file named."""

import copy
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2LMHeadModel,
    T5ForConditionalGeneration,
)

import wemoe
from models import experts_of, fine_tuned, save, tiny_bert
from points import Point, TiedModel
from tiny_families import BERT, FAMILIES
from wemoe.merging import RULES
from wemoe.merging.rules import PIECE, open_sources
from wemoe.weights import open_weights

HUGGING_FACE = [name for name in FAMILIES if "openclip" not in name]


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.fixture
def saved(tmp_path):
    base = tiny_bert()
    return save((base, experts_of(base)), tmp_path)


# --- one result from every kind of source


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_folders_state_dicts_and_modules_give_equal_numbers(name, tmp_path):
    base = FAMILIES[name].make()
    experts = experts_of(base, 2)
    expected = wemoe.task_arithmetic(base, experts).state_dict()
    states = {task: expert.state_dict() for task, expert in experts.items()}
    same(wemoe.task_arithmetic(base.state_dict(), states), expected)
    folder, folders = save((base, experts), tmp_path, max_shard_size="20KB")
    same(wemoe.task_arithmetic(folder, folders), expected)
    same(wemoe.task_arithmetic(base, folders).state_dict(), expected)
    mixed = dict(zip(experts, (folders["task0"], states["task1"]), strict=True))
    same(wemoe.task_arithmetic(str(folder), mixed), expected)


@pytest.mark.parametrize("method", RULES)
def test_every_method_takes_every_source(method, saved):
    base, experts = BertModel.from_pretrained(saved[0]), {t: BertModel.from_pretrained(f) for t, f in saved[1].items()}
    function = getattr(wemoe, method)
    expected = function(base, experts).state_dict()
    same(function(*saved), expected)
    same(function(base.state_dict(), {task: expert.state_dict() for task, expert in experts.items()}), expected)


@pytest.mark.parametrize("method", RULES)
def test_a_tensor_of_many_pieces_is_merged_as_one(method):
    """Rows are merged a few at a time; nothing that is counted or drawn may depend on it."""
    size = 3 * PIECE + 5
    base, tuned = torch.randn(size), [torch.randn(size).bfloat16().float() for _ in range(3)]
    whole = getattr(wemoe, method)({"a": base}, [{"a": expert} for expert in tuned])["a"]
    rows = getattr(wemoe, method)({"a": base.view(1, -1)}, [{"a": expert.view(1, -1)} for expert in tuned])["a"]
    assert torch.equal(whole, rows.view(-1))


@pytest.mark.parametrize("method", RULES)
def test_sources_stay_untouched(method, saved):
    before = {file: file.read_bytes() for folder in (saved[0], *saved[1].values()) for file in Path(folder).iterdir()}
    states = [load_file(f"{folder}/model.safetensors") for folder in (saved[0], *saved[1].values())]
    copies = copy.deepcopy(states)
    merged = getattr(wemoe, method)(states[0], states[1:])
    for tensor in merged.values():
        tensor.fill_(7)
    for state, untouched in zip(states, copies, strict=True):
        same(state, untouched)
    getattr(wemoe, method)(*saved)
    assert before == {file: file.read_bytes() for file in before}


def test_a_base_in_half_precision_is_not_converted_when_it_is_read(saved):
    base = BertModel.from_pretrained(saved[0], dtype=torch.bfloat16)
    base.save_pretrained(saved[0])
    with open_weights(saved[0], "base_model") as weights:
        assert all(tensor.dtype == torch.bfloat16 for tensor in weights.contents.values())
        assert weights.read("pooler.dense.weight").dtype == torch.bfloat16
    assert all(tensor.dtype == torch.bfloat16 for tensor in wemoe.average(*saved).values())


# --- what is one tensor


def test_what_shares_memory_counts_once():
    model = TiedModel()
    for source in (model, model.state_dict()):
        with open_weights(source, "x") as weights:
            assert weights.aliases == {"decoder.weight": "embedding.weight"}
            assert "decoder.weight" not in weights.contents
    states = [dict(model.state_dict()), fine_tuned(model, seed=1).state_dict()]
    merged = wemoe.task_arithmetic(states[0], [states[1]])
    assert merged["decoder.weight"] is merged["embedding.weight"]


def test_buffers_are_told_from_parameters():
    with open_weights(TiedModel(), "x") as weights:
        assert weights.contents.keys() - weights.parameters == {"positions", "running"}


@pytest.mark.parametrize(
    ("kind", "name", "stored"),
    [
        (GPT2LMHeadModel, "gpt2", "lm_head.weight"),
        (T5ForConditionalGeneration, "t5", "decoder.embed_tokens.weight"),
    ],
)
def test_a_tied_tensor_may_be_stored_under_any_of_its_names(kind, name, stored, tmp_path):
    base = FAMILIES[name].make()
    experts = experts_of(base, 2)
    expected = wemoe.ties(base, experts)
    folder, folders = save((base, experts), tmp_path)
    file = f"{folders['task0']}/model.safetensors"
    tensors = load_file(file)
    first = "transformer.wte.weight" if name == "gpt2" else "shared.weight"
    tensors[stored] = tensors.pop(first)
    save_file(tensors, file, metadata={"format": "pt"})
    same(wemoe.ties(folder, folders), expected.state_dict())
    # and twice, if both are equal
    save_file({**tensors, first: tensors[stored].clone()}, file, metadata={"format": "pt"})
    same(wemoe.ties(folder, folders), expected.state_dict())


def test_a_tie_that_an_expert_has_cut_is_named(tmp_path):
    base = FAMILIES["gpt2"].make()
    experts = experts_of(base, 1)
    folder, folders = save((base, experts), tmp_path)
    file = f"{folders['task0']}/model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"expert_models\['task0'\] must tie what base_model ties; .* 'lm_head.weight'"
    ):
        wemoe.average(folder, folders)


def test_names_of_earlier_versions_of_transformers_are_todays(saved):
    expected = wemoe.average(*saved)
    file = saved[0] / "model.safetensors"
    tensors = load_file(file)
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    assert "embeddings.LayerNorm.gamma" in tensors
    save_file(tensors, file, metadata={"format": "pt"})
    same(wemoe.average(*saved), expected)


# --- prefixes and heads


def classifier(backbone, labels):
    model = BertForSequenceClassification(AutoConfig.for_model("bert", **BERT, num_labels=labels)).eval()
    model.bert.load_state_dict(backbone.state_dict())
    return model


@pytest.mark.parametrize("kind", ["modules", "folders"])
def test_backbones_of_headed_experts_are_merged_with_a_bare_base(kind, tmp_path):
    base = BertModel(AutoConfig.for_model("bert", **BERT)).eval()
    tuned = experts_of(base, 2)
    headed = {task: classifier(expert, t + 2) for t, (task, expert) in enumerate(tuned.items())}
    sources = (base, headed) if kind == "modules" else save((base, headed), tmp_path)
    with open_sources(*sources) as opened:
        opened.check()
        assert set(opened.names) == set(base.state_dict())
        heads = opened.heads()
    for task, model in headed.items():
        assert heads[task].config["id2label"].keys() == model.config.to_dict()["id2label"].keys()
        same(heads[task].tensors, {name: model.state_dict()[name] for name in ("classifier.weight", "classifier.bias")})
    found = wemoe.task_arithmetic(*sources)
    same(found if kind == "folders" else found.state_dict(), wemoe.task_arithmetic(base, tuned).state_dict())


@pytest.mark.parametrize("kind", ["modules", "folders"])
def test_a_headed_base_becomes_its_backbone_where_experts_have_none(kind, tmp_path):
    base = BertForMaskedLM(AutoConfig.for_model("bert", **BERT)).eval()
    tuned = experts_of(base.bert, 2)
    sources = (base, tuned) if kind == "modules" else save((base, tuned), tmp_path)
    expected = wemoe.task_arithmetic(base.bert, tuned)
    found = wemoe.task_arithmetic(*sources)
    if kind == "modules":
        assert type(found) is BertModel
    same(found if kind == "folders" else found.state_dict(), expected.state_dict())


def test_a_state_dict_with_a_prefix_has_no_head_that_could_be_kept():
    base = BertModel(AutoConfig.for_model("bert", **BERT)).eval()
    tuned = fine_tuned(base, seed=1)
    with open_sources(base, {"x": classifier(tuned, 2).state_dict()}) as sources:
        sources.check()
        assert sources.heads() == {}
        assert sources.matching.left_out == {"expert_models['x']": ("classifier.bias", "classifier.weight")}
    same(wemoe.average(base, [classifier(tuned, 2).state_dict()]).state_dict(), tuned.state_dict())


def test_parts_of_the_base_that_no_expert_has_stay_the_bases():
    base = BertModel(AutoConfig.for_model("bert", **BERT)).eval()
    experts = [BertModel(base.config, add_pooling_layer=False) for _ in range(2)]
    merged = wemoe.average(base, experts)
    assert torch.equal(merged.pooler.dense.weight, base.pooler.dense.weight)
    first, second = (expert.encoder.layer[0].output.dense.weight for expert in experts)
    assert torch.equal(merged.encoder.layer[0].output.dense.weight, first * 0.5 + second * 0.5)


def test_leftovers_in_a_file_that_the_models_class_does_not_have_are_left_out(saved):
    expected = wemoe.average(*saved)
    for folder, name in ((saved[0], "cls.seq_relationship.weight"), (saved[1]["task1"], "embeddings.position_ids")):
        file = f"{folder}/model.safetensors"
        save_file({**load_file(file), name: torch.ones(2, 3)}, file, metadata={"format": "pt"})
    same(wemoe.average(*saved), expected)
    with open_sources(*saved) as sources:
        assert sources.matching.left_out == {
            "base_model": ("cls.seq_relationship.weight",),
            "expert_models['task1']": ("embeddings.position_ids",),
        }


# --- files that are broken


def second_shard(folder):
    return sorted(Path(folder).glob("model-*.safetensors"))[1]


def test_a_missing_shard_is_named(tmp_path):
    base = tiny_bert()
    folder, folders = save((base, experts_of(base, 2)), tmp_path, max_shard_size="5KB")
    missing = second_shard(folders["task1"])
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"expert_models\['task1'\] must hold every file .* {missing.name}"):
        wemoe.average(folder, folders)


def test_a_tensor_that_the_index_puts_into_no_file_is_missing(tmp_path):
    base = tiny_bert()
    folder, folders = save((base, experts_of(base, 1)), tmp_path, max_shard_size="5KB")
    file = second_shard(folders["task0"])
    tensors = load_file(file)
    name = next(iter(tensors))
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=rf"expert_models\['task0'\] must have .* missing: '{name}'"):
        wemoe.average(folder, folders)


@pytest.mark.parametrize("damage", ["truncated", "header"])
def test_a_damaged_file_is_named(saved, damage):
    file = f"{saved[1]['task1']}/model.safetensors"
    data = Path(file).read_bytes()
    Path(file).write_bytes(data[:-10] if damage == "truncated" else b"\xff" * 100 + data[100:])
    with pytest.raises(ValueError, match=rf"'{file}' must be a whole safetensors file; found"):
        wemoe.average(*saved)


def test_a_file_that_loses_its_end_while_it_is_read_is_named(saved):
    file = f"{saved[1]['task1']}/model.safetensors"
    with open_sources(*saved) as sources:
        rule = RULES["average"](sources)
        os.truncate(file, os.path.getsize(file) - 10)
        with pytest.raises(ValueError, match=rf"'{file}' must be a whole safetensors file; found"):
            {name: rule(name) for name in sources.names}


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(saved, text):
    (saved[0] / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json' must hold file names by tensor"):
        wemoe.average(*saved)


@pytest.mark.parametrize("text", ["{", '{"architectures": ["BertModel"], "model_type": "unheard-of"}'])
def test_a_damaged_configuration_is_named(saved, text):
    (saved[0] / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json' must be a model's configuration; found"):
        wemoe.average(*saved)


def test_numbers_that_are_not_finite_are_named_while_reading(saved):
    file = f"{saved[1]['task1']}/model.safetensors"
    tensors = load_file(file)
    tensors["pooler.dense.weight"][3, 2] = torch.inf
    save_file(tensors, file, metadata={"format": "pt"})
    for method in RULES:
        with pytest.raises(ValueError, match=r"expert_models\['task1'\] must hold finite .* 'pooler.dense.weight'"):
            getattr(wemoe, method)(*saved)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path):
    base = tiny_bert()
    folder, folders = save((base, experts_of(base, 1)), tmp_path)
    pickled = tmp_path / "pickled"
    base.config.architectures = ["BertModel"]
    base.config.save_pretrained(pickled)
    torch.save(base.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"must be safetensors, since a pickle can run code; found .*pytorch_model.bin"
    ) as found:
        wemoe.average(pickled, folders)
    run_command(str(found.value))
    same(wemoe.average(f"{pickled}-safetensors", folders), wemoe.average(folder, folders))


def test_a_pickled_state_dict_is_refused_with_the_command_that_converts_it(tmp_path):
    state = Point(1.0, 2.0).state_dict()
    torch.save(state, tmp_path / "point.pt")
    with pytest.raises(
        ValueError, match=r"must be safetensors, since a pickle can run code; found .*point.pt"
    ) as found:
        wemoe.average(tmp_path / "point.pt", [state])
    run_command(str(found.value))
    same(wemoe.average(tmp_path / "point.safetensors", [state]), state)


def run_command(message):
    """Run what a message says that converts a pickle."""
    python, *arguments = shlex.split(message.partition("if you trust it: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"base_model must hold 'model.safetensors' or .* found neither in .*empty"
    ):
        wemoe.average(tmp_path / "empty", [tiny_bert()])
    with pytest.raises(
        FileNotFoundError, match="base_model must be a folder or a repository of the Hub; found neither"
    ):
        wemoe.average(tmp_path / "nowhere", [tiny_bert()])


def test_a_routed_model_is_no_plain_one(tmp_path):
    base = tiny_bert()
    wemoe.upcycle(base, experts_of(base)).save_pretrained(tmp_path / "routed")
    with pytest.raises(ValueError, match=r"expert_models\['x'\] must be a plain model; found a routed one"):
        wemoe.average(base, {"x": tmp_path / "routed"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "base_model must be a module, a state dict or a checkpoint's folder or name; found int"),
        ({"a": 3}, "base_model must hold tensors by name; found int in 'a'"),
    ],
)
def test_sources_of_the_wrong_kind_are_refused(source, message):
    with pytest.raises(TypeError, match=message):
        wemoe.average(source, [nn.Linear(2, 2)])


def test_experts_that_are_one_path_are_refused():
    with pytest.raises(TypeError, match=r"must be a list of modules or a mapping .* found str"):
        wemoe.average(tiny_bert(), "experts")


# --- adapters, as far as they go without peft


def test_an_adapter_without_peft_says_what_to_install(saved, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base"}))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1, 1)}, adapter / "adapter_model.safetensors")
    monkeypatch.setitem(sys.modules, "peft", None)
    for source in (adapter, f"{saved[0]}+{adapter}"):
        with pytest.raises(ImportError, match="a LoRA adapter needs peft: pip install peft"):
            wemoe.average(saved[0], {"x": source})


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"peft_type": "IA3"}, r"expert_models\['x'\] must be a LoRA adapter; found 'IA3'"),
        ({}, "must describe an adapter; found"),
    ],
)
def test_other_adapters_are_refused(described, message, saved, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=message):
        wemoe.average(saved[0], {"x": tmp_path / "adapter"})


def test_what_stands_after_a_plus_must_be_an_adapter(saved):
    with pytest.raises(FileNotFoundError, match=r"must hold 'adapter_config.json' after the '\+'; found none"):
        wemoe.average(saved[0], {"x": f"{saved[0]}+{saved[1]['task0']}"})
