"""Preflight: every mismatch by name and all at once, before any work; sizes; experts of another base."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertForSequenceClassification, BertModel

from models import experts_of, fine_tuned, tiny_bert
from points import Point, TiedModel
from test_merged_folders import save, write
from tiny_families import BERT, FAMILIES
from wemoe.merging.rules import open_sources
from wemoe.preflight import preflight
from wemoe.vocabularies import read_vocabulary

SMALL = 1e-4  # what fine-tuning moves a weight of 0.02 by, as these models have


def report(base, experts, **options):
    with open_sources(base, experts) as sources:
        return preflight(sources, **options)


def change(folder, file, **changes):
    described = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(described | changes))


@pytest.fixture
def saved(tmp_path):
    base = tiny_bert()
    return save((base, {f"task{t}": fine_tuned(base, t, SMALL) for t in range(3)}), tmp_path)


def test_models_that_fit_have_no_problems_and_no_warnings(saved):
    found = report(*saved)
    assert found.problems == found.warnings == ()
    assert found.merged == 39
    assert [(model.label, model.name) for model in found.models] == [
        ("base_model", "base"),
        *((f"expert_models['task{t}']", f"task{t}") for t in range(3)),
    ]
    assert all(model.model_class == "BertModel" for model in found.models)
    assert all(model.parameters == sum(p.numel() for p in tiny_bert().parameters()) for model in found.models)
    found.raise_if_broken()


def test_every_mismatch_is_listed_by_name_and_all_at_once():
    base = tiny_bert()
    experts = {
        "narrow": tiny_bert(hidden_size=12),
        "shallow": tiny_bert(num_hidden_layers=1),
        "fine": fine_tuned(base, 1),
    }
    experts["fine"].pooler.extra = torch.nn.Parameter(torch.ones(1))
    found = report(base, experts)
    with pytest.raises(ValueError, match="narrow") as raised:
        found.raise_if_broken()
    text = str(raised.value)
    for name, tensor in experts["narrow"].state_dict().items():
        if tensor.shape != base.state_dict()[name].shape:
            assert f"{name!r} is {tuple(tensor.shape)}, in base_model {tuple(base.state_dict()[name].shape)}" in text
    for name in base.state_dict().keys() - experts["shallow"].state_dict().keys():
        assert repr(name) in text
    assert (
        "expert_models['narrow'] must have the architecture of base_model; hidden_size is 12, in base_model 16" in text
    )
    assert "expert_models['shallow'] must have the architecture of base_model; num_hidden_layers is 1" in text
    assert (
        "expert_models['fine'] must have the parameters of base_model; missing: none; unexpected: 'pooler.extra'"
        in text
    )
    assert len(found.problems) == 5


def test_another_kind_of_model_is_named(tmp_path):
    found = report(tiny_bert(), {"x": FAMILIES["roberta"].make()})
    assert any("model_type is 'roberta', in base_model 'bert'" in problem for problem in found.problems)


def test_what_changes_the_function_and_no_shape_is_a_warning(saved):
    change(saved[1]["task1"], "config.json", hidden_act="relu", layer_norm_eps=1e-5)
    found = report(*saved)
    assert found.problems == ()
    assert found.warnings == (
        "expert_models['task1'] computes otherwise than base_model; hidden_act is 'relu', in base_model 'gelu'; "
        "layer_norm_eps is 1e-05, in base_model 1e-12",
    )


def test_heads_of_attention_that_shapes_do_not_tell_are_a_problem(saved):
    change(saved[1]["task1"], "config.json", num_attention_heads=4)
    assert report(*saved).problems == (
        "expert_models['task1'] must have the architecture of base_model; num_attention_heads is 4, in base_model 2",
    )


def test_another_dtype_is_told_and_another_kind_of_dtype_refused(saved):
    BertModel.from_pretrained(saved[1]["task1"], dtype=torch.bfloat16).save_pretrained(saved[1]["task1"])
    assert "expert_models['task1'] is in bfloat16, base_model in float32" in report(*saved).warnings
    states = [Point(1.0, 2.0, count=1).state_dict() for _ in range(2)]
    states[1]["count"] = torch.tensor(1.0)
    assert report(states[0], states[1:]).problems == (
        "expert_models['task_0'] must have the kind of dtype of base_model; "
        "'count' is torch.float32, in base_model torch.int64",
    )


# --- vocabularies


def tokenizer(vocabulary, added=()):
    tokens = [{"id": number, "content": token} for token, number in added]
    return json.dumps({"model": {"vocab": vocabulary}, "added_tokens": tokens})


@pytest.mark.parametrize(
    ("file", "base", "expert"),
    [
        ("vocab.txt", "a\nb\nc\n", "a\nc\nb\nd\n"),
        ("vocab.json", '{"a": 0, "b": 1, "c": 2}', '{"a": 0, "c": 1, "b": 2, "d": 3}'),
        ("tokenizer.json", tokenizer({"a": 0, "b": 1}, [("c", 2)]), tokenizer({"a": 0, "c": 1, "b": 2}, [("d", 3)])),
        (
            "tokenizer.json",
            tokenizer([["a", 0], ["b", -1], ["c", -2]]),
            tokenizer([["a", 0], ["c", 0], ["b", 0], ["d", 0]]),
        ),
    ],
)
def test_another_vocabulary_is_named(saved, file, base, expert):
    (saved[0] / file).write_text(base)
    (saved[1]["task0"] / file).write_text(base)
    (saved[1]["task1"] / file).write_text(expert)
    assert read_vocabulary(saved[0]) == {"a": 0, "b": 1, "c": 2}
    found = report(*saved)
    assert found.problems == (
        "expert_models['task1'] must have the vocabulary of base_model; "
        "'c' is 1, in base_model 2, 'b' is 2, in base_model 1",
    )
    assert found.warnings == ("expert_models['task1'] has other tokens than base_model; added: 'd'",)


def test_rows_of_embeddings_that_differ_are_named(saved, tmp_path):
    tiny_bert(vocab_size=53).save_pretrained(tmp_path / "larger")
    problems = report(saved[0], {"x": tmp_path / "larger"}).problems
    assert problems == (
        "expert_models['x'] must have the architecture of base_model; vocab_size is 53, in base_model 50",
        "expert_models['x'] must have the shapes of base_model; "
        "'embeddings.word_embeddings.weight' is (53, 16), in base_model (50, 16)",
    )


def test_a_damaged_tokenizer_is_named(saved):
    for folder in (saved[0], saved[1]["task0"]):
        (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer.json' must be a tokenizer's; found"):
        report(*saved)


# --- another base


def test_an_expert_that_was_trained_apart_is_told_by_its_distance():
    base = tiny_bert()
    found = report(base, {"x": fine_tuned(base, 1, SMALL), "stranger": tiny_bert()})
    # two random matrices are orthogonal: their distance is sqrt(2) norms, to within one in the root of 5000 entries
    assert found.models[2].norm == pytest.approx(2**0.5, rel=0.05)
    # 0.0001 over 0.02, the standard deviations of what fine-tuning adds and of the weights
    assert found.models[1].norm == pytest.approx(0.005, rel=0.1)
    (warning,) = found.warnings
    assert warning.startswith(
        "expert_models['stranger'] may be fine-tuned from another base: its weights are 1.4 norms"
    )
    assert found.problems == ()


def test_an_expert_that_went_much_further_than_the_others_is_told():
    base = tiny_bert()
    experts = {f"x{t}": fine_tuned(base, t, SMALL) for t in range(3)} | {"far": fine_tuned(base, 3, 20 * SMALL)}
    (warning,) = report(base, experts).warnings
    assert warning == (
        "expert_models['far'] may be fine-tuned from another base: its weights are 0.1 norms of base_model's away, "
        "20 times as far as the other experts'"
    )


def test_numbers_that_are_not_finite_are_a_problem(saved):
    file = saved[1]["task1"] / "model.safetensors"
    tensors = load_file(file)
    tensors["pooler.dense.weight"][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    assert report(*saved).problems == (
        "expert_models['task1'] must hold finite numbers; found NaN or infinity in: 'pooler.dense.weight'",
    )


# --- what it takes


@pytest.mark.parametrize(("dtype", "share"), [(None, 1.0), (torch.bfloat16, 0.5)])
def test_the_size_of_what_is_written_is_told_to_the_byte(saved, tmp_path, dtype, share):
    found = report(*saved, dtype=dtype)
    write(tmp_path / "merged", *saved, dtype=dtype)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.disk == sum(tensor.nbytes for tensor in tensors.values())
    assert found.disk == share * sum(parameter.nbytes for parameter in tiny_bert().parameters())


def test_small_files_take_less_memory(saved):
    whole, parts = (report(*saved, max_shard_size=size) for size in ("5GB", "5KB"))
    assert whole.disk == parts.disk
    assert parts.memory < whole.memory
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes"):
        report(*saved, max_shard_size="much")


def test_tied_tensors_count_once_and_integers_stay_the_bases(tmp_path):
    base = TiedModel()
    found = report(base, [fine_tuned(base, 1, SMALL)])
    assert found.merged == len(list(base.parameters())) + 1  # and a buffer of fractions
    assert found.kept == ("positions",)
    assert found.disk == sum(t.nbytes for t in (*base.parameters(), *base.buffers()))


def test_heads_and_what_is_left_out_are_told(tmp_path):
    base = BertModel(AutoConfig.for_model("bert", **BERT))
    expert = BertForSequenceClassification(AutoConfig.for_model("bert", **BERT, num_labels=3))
    expert.bert.load_state_dict(fine_tuned(base, 1, SMALL).state_dict())
    found = report(base, {"movies": expert})
    assert found.heads == {"movies": ("classifier.weight", "classifier.bias")}
    assert found.disk == sum(t.nbytes for t in base.parameters()) + 4 * (3 * 16 + 3)
    assert report(base, {"movies": expert.state_dict()}).left_out == {
        "expert_models['movies']": ("classifier.bias", "classifier.weight")
    }


def test_a_report_is_read_by_people_and_by_programs(saved):
    change(saved[1]["task1"], "config.json", hidden_act="relu")
    change(saved[1]["task2"], "config.json", num_attention_heads=4)
    found = report(*saved)
    lines = str(found).splitlines()
    assert lines == found.lines()
    assert lines[0] == "base_model: base, BertModel, 5,568 parameters in float32"
    assert lines[1].startswith("expert_models['task0']: task0, BertModel, 5,568 parameters in float32; moved by 0.00")
    assert "merged: 39 tensors" in lines
    assert any(line.startswith("memory: about ") and line.endswith("; disk: 22.3 KB") for line in lines)
    assert [line.partition(":")[0] for line in lines[-2:]] == ["warning", "problem"]
    again = json.loads(json.dumps(found.as_dict()))
    assert again["problems"] == list(found.problems)
    assert again["models"][0]["dtypes"] == {"float32": 39}


def test_experts_of_the_tests_fit():
    """The other tests' experts move far, on purpose; preflight only warns of it."""
    base = tiny_bert()
    assert report(base, experts_of(base)).problems == ()
