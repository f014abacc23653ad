"""LoRA adapters of PEFT (version 0.21.2) as experts: what is merged is what PEFT merges, heads stay apart."""

import copy
import warnings

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertModel

import wemoe
from models import tiny_bert
from tiny_families import FAMILIES
from wemoe.merging.rules import open_sources

# PEFT calls what transformers calls deprecated, in its own training set-up
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]

CLASSES = 3


@pytest.fixture(scope="module")
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn, which is not ours to judge
        return pytest.importorskip("peft")


@pytest.fixture
def base(tmp_path):
    tiny_bert().save_pretrained(tmp_path / "base")
    return BertModel.from_pretrained(tmp_path / "base")


def adapter(peft, model, folder, seed, **options):
    """Save a LoRA adapter on a copy of a model, its maps random; return what PEFT makes of the two."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["query", "value"], **options})
    tuned = peft.get_peft_model(copy.deepcopy(model), config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload().state_dict()


def test_an_adapter_is_the_expert_that_peft_makes_of_it(peft, base, tmp_path):
    expected = adapter(peft, base, tmp_path / "x", seed=1)
    assert not torch.equal(
        expected["encoder.layer.0.attention.self.query.weight"], base.encoder.layer[0].attention.self.query.weight
    )
    for given in (base, tmp_path / "base"):
        merged = wemoe.average(given, {"x": tmp_path / "x"})
        state = merged if given is not base else merged.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_adapters_are_upcycled_as_the_models_that_peft_makes_of_them(peft, base, tmp_path):
    tuned = {task: adapter(peft, base, tmp_path / task, seed) for seed, task in enumerate("xy")}
    found, expected = (
        wemoe.upcycle(base, experts, router_hidden_layers=0).state_dict()
        for experts in ({task: tmp_path / task for task in tuned}, tuned)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_adapters_and_models_are_merged_alike(peft, base, tmp_path):
    tuned = [adapter(peft, base, tmp_path / task, seed) for seed, task in enumerate("xy")]
    expected = wemoe.task_arithmetic(base.state_dict(), tuned)
    found = wemoe.task_arithmetic(tmp_path / "base", [str(tmp_path / "x"), f"{tmp_path / 'base'}+{tmp_path / 'y'}"])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("given", ["module", "folder"])
def test_a_classifier_that_was_saved_with_the_adapter_is_the_tasks_head(peft, base, tmp_path, given):
    headed = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=CLASSES)
    expected = adapter(peft, headed, tmp_path / "x", seed=1, task_type="SEQ_CLS")
    source = base if given == "module" else tmp_path / "base"
    with open_sources(source, {"x": tmp_path / "x"}) as sources:
        sources.check()
        assert set(sources.names) == set(base.state_dict())
        name = "encoder.layer.1.attention.self.value.weight"
        assert torch.equal(sources.expert_tensor("x", name), expected[f"bert.{name}"])
        head = sources.heads()["x"]
    assert head.model_class == "BertForSequenceClassification"
    assert head.tensors.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in head.tensors.items())


def test_a_head_that_was_not_saved_is_none(peft, base, tmp_path):
    """GPT-2 under a classifier: what the adapter does not hold, and the base does not have, was never trained."""
    headed = BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=CLASSES)
    adapter(peft, headed.bert, tmp_path / "x", seed=1, task_type="FEATURE_EXTRACTION")
    with open_sources(base, {"x": tmp_path / "x"}) as sources:
        assert sources.heads() == {}


def test_a_model_that_writes(peft, tmp_path):
    model = FAMILIES["llama"].make()
    model.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    tuned = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(tmp_path / "x")
    expected = tuned.merge_and_unload().state_dict()
    merged = wemoe.task_arithmetic(tmp_path / "base", [tmp_path / "x"], 1.0)
    for name, tensor in merged.items():
        # base + (expert - base) is exact to one rounding of each operation
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


def test_an_adapter_for_another_base_is_named(peft, base, tmp_path):
    adapter(peft, tiny_bert(hidden_size=32), tmp_path / "wide", seed=1)
    with pytest.raises(ValueError, match=r"(?s)expert_models\['x'\] must be an adapter for .*base.*size mismatch"):
        wemoe.average(tmp_path / "base", {"x": tmp_path / "wide"})
    tiny_bert().save_pretrained(tmp_path / "other")
    adapter(peft, BertModel.from_pretrained(tmp_path / "other"), tmp_path / "x", seed=1)
    with open_sources(base, {"x": tmp_path / "x"}) as sources:
        assert sources.experts["x"].notes == (
            "expert_models['x'] is an adapter that was made for 'other'; it is merged into 'base'",
        )


def test_nothing_is_left_on_disk_and_randomness_stays_as_it_was(peft, base, tmp_path, monkeypatch):
    adapter(peft, base, tmp_path / "x", seed=1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before, state = copy.deepcopy(base.state_dict()), torch.get_rng_state()
    with open_sources(base, {"x": tmp_path / "x"}):
        assert any((tmp_path / "temporary").iterdir())
    assert not any((tmp_path / "temporary").iterdir())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
