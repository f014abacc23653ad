"""Models that run: the base as it is or from its folder, an expert from any source as a model like the base."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from headed import with_labels
from models import fine_tuned, inputs_of, tiny_bert
from points import TiedModel
from wemoe.merging.rules import open_sources
from wemoe.merging.running import base_module, expert_module, expert_part


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model, expected):
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["module", "state dict", "folder", "sharded folder"])
def test_an_expert_of_any_source_runs_as_a_model_like_the_base(kind, tmp_path):
    base = tiny_bert().train()
    expert = fine_tuned(base, seed=1).eval()
    if "folder" in kind:
        expert.save_pretrained(tmp_path, max_shard_size="10KB" if "sharded" in kind else "5GB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1 or "sharded" not in kind
    source = {"module": expert, "state dict": state(expert)}.get(kind, tmp_path)
    inputs = inputs_of(base)
    with open_sources(base, {"x": source}) as sources:
        model = expert_module(base_module(base, sources), sources, "x")
    assert type(model) is BertModel
    assert not model.training
    assert_same(model, expert)
    assert torch.equal(model(**inputs).pooler_output, expert(**inputs).pooler_output)


def test_an_expert_takes_the_bases_dtype_and_keeps_its_own():
    base, expert = tiny_bert().double(), fine_tuned(tiny_bert(), seed=1).bfloat16()
    with open_sources(base, [expert]) as sources:
        model = expert_module(base, sources, "task_0")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert {p.dtype for p in expert.parameters()} == {torch.bfloat16}
    assert torch.equal(model.pooler.dense.weight, expert.pooler.dense.weight.double())


def test_what_fits_is_not_copied_but_for_buffers_and_flags():
    base = TiedModel()
    expert = fine_tuned(base, seed=1).requires_grad_(False)
    expert.positions += 5
    with open_sources(base, {"x": expert}) as sources:
        model = expert_module(base, sources, "x").requires_grad_(True)
    assert model.decoder.weight is model.embedding.weight
    assert model.inner.weight.data_ptr() == expert.inner.weight.data_ptr()
    assert not expert.inner.weight.requires_grad
    assert torch.equal(model.positions, expert.positions)
    model.positions += 1
    model.running += 1
    assert expert.positions.tolist() == [5, 6, 7]
    assert expert.running.tolist() == [1.0, 1.0]


def test_a_part_of_an_expert_is_read_alone(tmp_path):
    base, expert = tiny_bert(), fine_tuned(tiny_bert(), seed=1)
    expert.save_pretrained(tmp_path)
    read = []
    with open_sources(base, {"x": tmp_path}) as sources:
        whole, sources.expert_tensor = sources.expert_tensor, lambda task, name: read.append(name) or whole(task, name)
        layer = expert_part(base, sources, "x", "encoder.layer.1")
    assert_same(layer, expert.encoder.layer[1])
    assert {name.rpartition(".layer.1.")[0] for name in read} == {"encoder"}


def test_a_part_may_hold_a_tensor_by_its_second_name():
    base = TiedModel()
    expert = fine_tuned(base, seed=1)
    with open_sources(base, {"x": expert}) as sources:
        assert torch.equal(expert_part(base, sources, "x", "decoder").weight, expert.embedding.weight)


def test_what_an_expert_does_not_have_is_the_bases():
    base = tiny_bert()
    masked = fine_tuned(BertForMaskedLM(base.config), seed=1).eval()  # it has no pooler
    with open_sources(base, {"x": masked}) as sources:
        model = expert_module(base_module(base, sources), sources, "x")
    assert torch.equal(model.pooler.dense.weight, base.pooler.dense.weight)
    assert torch.equal(model.encoder.layer[1].output.dense.weight, masked.bert.encoder.layer[1].output.dense.weight)


@pytest.mark.parametrize("from_folder", [False, True], ids=["module", "folder"])
def test_of_a_headed_base_the_backbone_runs_where_experts_have_no_such_head(from_folder, tmp_path):
    base = BertForSequenceClassification(with_labels(tiny_bert().config, 2)).eval()
    base.save_pretrained(tmp_path)
    expert = fine_tuned(base.bert, seed=1)
    source = tmp_path if from_folder else base
    with open_sources(source, {"x": expert}) as sources:
        backbone = base_module(source, sources)
        model = expert_module(backbone, sources, "x")
    assert (backbone is base.bert) == (not from_folder)
    assert_same(backbone, base.bert)
    assert_same(model, expert)


def test_a_base_is_loaded_with_the_class_of_its_configuration(tmp_path):
    base = tiny_bert().bfloat16()
    base.save_pretrained(tmp_path, max_shard_size="10KB")
    random = torch.get_rng_state()
    with open_sources(tmp_path, [base]) as sources:
        loaded = base_module(tmp_path, sources)
    assert torch.equal(torch.get_rng_state(), random)
    assert type(loaded) is BertModel
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert_same(loaded, base)
    inputs = inputs_of(base)
    assert torch.equal(loaded(**inputs).pooler_output, base(**inputs).pooler_output)


def test_a_base_that_cannot_be_run_is_refused(tmp_path):
    base = tiny_bert()
    with (
        open_sources(state(base), [base]) as sources,
        pytest.raises(TypeError, match="base_model must be a module or a checkpoint's folder"),
    ):
        base_module(state(base), sources)
    base.save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if name != "pooler.dense.bias"}
    save_file(kept, file, {"format": "pt"})
    with (
        open_sources(tmp_path, [kept]) as sources,
        pytest.raises(
            ValueError, match=r"base_model must hold every tensor of its model; missing: 'pooler.dense.bias'"
        ),
    ):
        base_module(tmp_path, sources)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["TheirModel"]}))
    with (
        open_sources(tmp_path, [kept]) as sources,
        pytest.raises(ValueError, match=r"base_model must name a class of transformers in its config\.json"),
    ):
        base_module(tmp_path, sources)


def test_a_tensor_that_is_not_finite_is_named(tmp_path):
    base, expert = tiny_bert(), fine_tuned(tiny_bert(), seed=1)
    nn.init.constant_(expert.pooler.dense.bias, torch.nan)
    expert.save_pretrained(tmp_path)
    with (
        open_sources(base, {"x": tmp_path}) as sources,
        pytest.raises(ValueError, match=r"expert_models\['x'\] must hold finite numbers; .* 'pooler.dense.bias'"),
    ):
        expert_module(base, sources, "x")
