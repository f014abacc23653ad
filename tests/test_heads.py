"""Heads: one routed model, and for each task a model of the headed class that shares it."""

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2LMHeadModel,
    ViTForImageClassification,
)

import wemoe
from headed import HEADED, backbone, headed_experts, inputs_for, routed_backbone, with_labels
from models import experts_of, fine_tuned, inputs_of, randomised, tiny_bert, tiny_vit
from tiny_families import FAMILIES, padded_texts


@pytest.fixture(params=HEADED)
def experts(request):
    return headed_experts(request.param)


def test_a_model_of_one_expert_at_full_weight_is_that_expert(experts):
    """With lambda = 1 for everything, routed or merged statically, nothing but the expert is left."""
    for expert in experts.values():
        tuned = backbone(expert)
        model = wemoe.upcycle(fine_tuned(tuned, seed=4), [tuned], init_lambda=1, router_hidden_layers=0)
        headed = wemoe.with_head(model, expert)
        inputs = inputs_for(expert)
        # fp32 through two blocks of width 16; weights are rebuilt as theta_0 + (theta_t - theta_0)
        torch.testing.assert_close(headed(**inputs).logits, expert(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_a_headed_model_is_the_routed_model_and_the_experts_head(experts):
    model = routed_backbone(experts)
    for expert in experts.values():
        headed = wemoe.with_head(model, expert)
        by_hand = copy.deepcopy(expert)
        (path,) = [path for path, module in by_hand.named_modules() if type(module) is type(backbone(expert))]
        by_hand.set_submodule(path, model)
        inputs = inputs_for(expert)
        assert torch.equal(headed(**inputs).logits, by_hand(**inputs).logits)
        assert isinstance(headed, type(expert))
        assert headed.config.id2label == expert.config.id2label
        assert headed.routing_config.base_class == type(expert).__name__
        assert headed.routing_config.tasks == model.routing_config.tasks
        assert not headed.training


def test_all_tasks_share_the_parameters_of_one_backbone(experts):
    model = routed_backbone(experts)
    heads = [wemoe.with_head(model, expert) for expert in experts.values()]
    for headed in heads:
        shared = {id(parameter) for parameter in headed.parameters()}
        assert all(id(parameter) in shared for parameter in model.parameters())
        trained = {id(parameter) for parameter in headed.parameters() if parameter.requires_grad}
        assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    first, second = heads
    first(**inputs_for(experts["three"])).logits.sum().backward()
    torch.optim.SGD([p for p in first.parameters() if p.requires_grad], lr=0.1).step()
    inputs = inputs_for(experts["two"])
    assert torch.equal(second(**inputs).logits, wemoe.with_head(model, experts["two"])(**inputs).logits)


def test_the_expert_stays_untouched(experts):
    model = routed_backbone(experts)
    expert = experts["two"]
    before = copy.deepcopy(expert)
    wemoe.with_head(model, expert)
    assert type(expert) is type(before)
    assert all(torch.equal(a, b) for a, b in zip(expert.parameters(), before.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in expert.parameters())


def test_a_headed_model_is_saved_and_loaded_whole(experts, tmp_path):
    model = routed_backbone(experts)
    for task, expert in experts.items():
        headed = wemoe.with_head(model, expert)
        headed.save_pretrained(tmp_path / task)
        again = wemoe.from_pretrained(tmp_path / task)
        assert type(again) is type(headed)
        assert again.routing_config == headed.routing_config
        assert again.config.id2label == expert.config.id2label
        inputs = inputs_for(expert)
        assert torch.equal(again(**inputs).logits, headed(**inputs).logits)


def test_heads_are_kept_beside_one_backbone(experts, tmp_path):
    model = routed_backbone(experts)
    model.save_pretrained(tmp_path, heads=experts)
    again, heads = wemoe.from_pretrained(tmp_path), wemoe.load_heads(tmp_path)
    assert heads.keys() == experts.keys()
    for task, expert in experts.items():
        assert heads[task].model_class == type(expert).__name__
        names = {"score.weight"} if "score.weight" in expert.state_dict() else {"classifier.weight", "classifier.bias"}
        assert heads[task].tensors.keys() == names
        headed, expected = wemoe.with_head(again, heads[task]), wemoe.with_head(model, expert)
        assert type(headed) is type(expected)
        assert headed.config.to_dict() == expected.config.to_dict()
        assert not headed.training
        inputs = inputs_for(expert)
        assert torch.equal(headed(**inputs).logits, expected(**inputs).logits)


def test_every_kind_of_head_may_be_kept_in_one_file(tmp_path):
    experts = headed_experts("bert")
    model = randomised(wemoe.upcycle(tiny_bert(), dict.fromkeys(("a", "b", "c", "d"), tiny_bert())))
    headed = wemoe.with_head(model, experts["two"])
    heads = {"a": nn.Linear(16, 3), "b": experts["three"], "c": headed}
    model.save_pretrained(tmp_path, heads=heads)
    loaded = wemoe.load_heads(tmp_path)
    model.save_pretrained(tmp_path, heads=loaded)
    again = wemoe.load_heads(tmp_path)
    assert [type(again[task]) for task in heads] == [nn.Linear, wemoe.TaskHead, wemoe.TaskHead]
    assert torch.equal(again["a"].weight, heads["a"].weight)
    for task in ("b", "c"):
        assert (again[task].model_class, again[task].config) == (loaded[task].model_class, loaded[task].config)
        assert torch.equal(again[task].tensors["classifier.weight"], heads[task].classifier.weight)


def test_copies_and_pickles_of_headed_models_are_equal(experts):
    headed = wemoe.with_head(routed_backbone(experts), experts["three"])
    inputs = inputs_for(headed)
    for twin in (copy.deepcopy(headed), pickle.loads(pickle.dumps(headed))):
        assert type(twin) is type(headed)
        assert torch.equal(twin(**inputs).logits, headed(**inputs).logits)


def masked_language_models():
    first, second = (BertForMaskedLM(tiny_bert().config).eval() for _ in range(2))
    second.bert.load_state_dict(first.bert.state_dict())
    return {"one": fine_tuned(first, seed=1), "other": fine_tuned(second, seed=2)}


def test_a_decoder_tied_to_the_embeddings_is_tied_to_those_of_the_routed_model(tmp_path):
    experts = masked_language_models()
    model = randomised(wemoe.upcycle(tiny_bert(), {task: with_pooler(expert) for task, expert in experts.items()}))
    headed = wemoe.with_head(model, experts["one"])
    assert headed.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert experts["one"].get_output_embeddings().weight is experts["one"].get_input_embeddings().weight
    model.save_pretrained(tmp_path, heads=experts)
    kept = wemoe.load_heads(tmp_path)["one"]
    assert "cls.predictions.decoder.weight" not in kept.tensors
    inputs = inputs_of(model)
    assert torch.equal(wemoe.with_head(model, kept)(**inputs).logits, headed(**inputs).logits)


def test_a_head_that_is_all_tied_is_kept_by_its_class_alone(tmp_path):
    base = FAMILIES["gpt2"].make()
    experts = experts_of(base, tasks=2)
    model = randomised(wemoe.upcycle(base.transformer, {task: each.transformer for task, each in experts.items()}))
    model.save_pretrained(tmp_path, heads=experts)
    heads = wemoe.load_heads(tmp_path)
    assert {task: head.tensors for task, head in heads.items()} == {"task0": {}, "task1": {}}
    again = wemoe.with_head(wemoe.from_pretrained(tmp_path), heads["task1"])
    assert isinstance(again, GPT2LMHeadModel)
    texts = padded_texts()
    assert torch.equal(again(**texts).logits, wemoe.with_head(model, experts["task1"])(**texts).logits)
    written = again.generate(**texts, max_new_tokens=3)
    assert torch.equal(written, wemoe.with_head(model, experts["task0"]).generate(**texts, max_new_tokens=3))


def with_pooler(expert):
    """The backbone of a class that has no pooler, in a model that has one."""
    whole = BertModel(expert.config).eval()
    whole.load_state_dict(expert.bert.state_dict(), strict=False)
    return whole


def test_the_headed_class_decides_which_children_its_backbone_has(tmp_path):
    """A pooler that only the head's backbone has is the head's; one that only the routed model has is left out."""
    without = BertModel(tiny_bert().config, add_pooling_layer=False).eval()
    vision = tiny_vit()
    cases = [
        (without, BertForSequenceClassification(with_labels(without.config, 3)).eval()),
        (vision, ViTForImageClassification(with_labels(vision.config, 3)).eval()),
    ]
    for number, (base, head) in enumerate(cases):
        model = randomised(wemoe.upcycle(base, experts_of(base, tasks=1)))
        headed = wemoe.with_head(model, head)
        inputs = inputs_of(base)
        shared = {id(parameter) for parameter in headed.parameters()}
        assert all(id(parameter) in shared for name, parameter in model.named_parameters() if "pooler" not in name)
        folder = tmp_path / str(number)
        headed.save_pretrained(folder / "whole")
        model.save_pretrained(folder / "parts", heads={"task0": head})
        assert torch.equal(wemoe.from_pretrained(folder / "whole")(**inputs).logits, headed(**inputs).logits)
        parts = wemoe.with_head(wemoe.from_pretrained(folder / "parts"), wemoe.load_heads(folder / "parts")["task0"])
        assert torch.equal(parts(**inputs).logits, headed(**inputs).logits)
        assert model.pooler is base.pooler is None or model.pooler is not None
        headed.base_model.save_pretrained(folder / "backbone")
        again = wemoe.from_pretrained(folder / "backbone")
        found, expected = (each(**inputs).last_hidden_state for each in (again, headed.base_model))
        assert torch.equal(found, expected)


def test_a_head_comes_in_the_dtype_of_the_routed_model():
    experts = headed_experts("bert")
    model = routed_backbone(experts).bfloat16()
    headed = wemoe.with_head(model, experts["two"])
    assert headed.classifier.weight.dtype == torch.bfloat16
    assert headed(**inputs_for(experts["two"])).logits.dtype == torch.bfloat16
    assert experts["two"].classifier.weight.dtype == torch.float32


def test_a_headed_model_takes_labels_and_gives_router_gradients(experts):
    headed = wemoe.with_head(routed_backbone(experts), experts["three"])
    inputs = inputs_for(headed)
    shape = headed(**inputs).logits.shape[:-1]
    headed(**inputs, labels=torch.zeros(shape).long()).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in headed.parameters())


class OwnHead(BertForSequenceClassification):
    """A class that transformers does not have."""


class Sharing(BertForTokenClassification):
    """A headed model that shares a tensor with its backbone without telling transformers."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier.weight = self.bert.embeddings.token_type_embeddings.weight


def test_a_class_of_ones_own_gives_a_head_but_is_not_kept(tmp_path):
    base = tiny_bert()
    model = wemoe.upcycle(base, experts_of(base, tasks=1))
    head = OwnHead(base.config).eval()
    assert isinstance(wemoe.with_head(model, head), OwnHead)
    with pytest.raises(ValueError, match=r"heads\['task0'\] must be of a class of transformers, .* found OwnHead"):
        model.save_pretrained(tmp_path / "merged", heads={"task0": head})
    assert not (tmp_path / "merged").exists()


BERT = tiny_bert().config


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (nn.Linear(16, 2), TypeError, "head must be a headed model or a wemoe.TaskHead; found Linear"),
        (tiny_bert(), ValueError, "one backbone of the model's class, BertModel; BertModel has none"),
        (HEADED["vit"](2), ValueError, "class, BertModel; ViTForImageClassification has none"),
        (
            BertForSequenceClassification(tiny_bert(hidden_size=32).config),
            ValueError,
            r"the model's sizes; '.*' is \(.*32.*\), in the model \(.*16.*\)",
        ),
        (
            BertForSequenceClassification(tiny_bert(num_hidden_layers=3).config),
            ValueError,
            "as many blocks as the model; found 3, in the model 2",
        ),
        (Sharing(BERT), ValueError, r"`tie_weights`\); Sharing also shares 'classifier.weight'"),
        (wemoe.TaskHead("Popen", {}, {}), ValueError, "a model class of transformers; found 'Popen'"),
        (
            wemoe.TaskHead("BertForSequenceClassification", BERT.to_dict(), {"classifier.bias": torch.zeros(2)}),
            ValueError,
            r"must be those of a BertForSequenceClassification .* misshapen: \['classifier.weight'\]",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_refused(head, error, message):
    base = tiny_bert()
    with pytest.raises(error, match=message):
        wemoe.with_head(wemoe.upcycle(base, experts_of(base, tasks=1)), head)


def test_a_model_that_is_not_of_transformers_takes_no_head():
    with pytest.raises(TypeError, match="model must be a model of transformers, plain or routed; found Linear"):
        wemoe.with_head(nn.Linear(2, 2), BertForSequenceClassification(BERT))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"model_class": "B"}}', '{"a": 1}'])
def test_a_file_that_describes_its_heads_otherwise_is_refused(tmp_path, text):
    save_file({"a/weight": torch.zeros(2, 2)}, tmp_path / "heads.safetensors", metadata={"task_heads": text})
    with pytest.raises(ValueError, match="must describe its heads by class and configuration; found"):
        wemoe.load_heads(tmp_path)


def test_a_heads_file_of_linear_heads_alone_is_as_it_was(tmp_path):
    model = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert(), tasks=1))
    model.save_pretrained(tmp_path, heads={"task0": nn.Linear(16, 3)})
    with safe_open(tmp_path / "heads.safetensors", framework="pt") as file:
        assert not file.metadata()


def test_a_heads_file_holds_no_more_than_the_heads(tmp_path):
    experts = headed_experts("bert")
    routed_backbone(experts).save_pretrained(tmp_path, heads=experts)
    names = {f"{task}/classifier.{name}" for task in experts for name in ("weight", "bias")}
    assert load_file(tmp_path / "heads.safetensors").keys() == names
    with safe_open(tmp_path / "heads.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["task_heads"])
    assert described["two"]["config"]["id2label"] == {"0": "label 0", "1": "label 1"}
