"""Merged folders: what plain transformers loads, whole or not at all."""

import errno
import hashlib
import json

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    GPT2LMHeadModel,
)

import wemoe
from models import experts_of, fine_tuned, save, tiny_bert
from points import Point
from tiny_families import BERT, FAMILIES
from wemoe.merged_folders import write_merged
from wemoe.merging import RULES
from wemoe.merging.rules import open_sources
from wemoe.provenance import sha256_of_state

RECIPE = {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.3}, "base_model": "/home/someone/base"}
MODELS = [name for name in FAMILIES if "openclip" not in name]


def write(output, base, experts, method="task_arithmetic", **options):
    with open_sources(base, experts) as sources:
        write_merged(output, sources, RULES[method](sources), **{"recipe": RECIPE, **options})


@pytest.mark.parametrize("name", MODELS)
def test_plain_transformers_loads_it_with_nothing_missing_and_nothing_unexpected(name, tmp_path):
    base = FAMILIES[name].make()
    experts = experts_of(base, 2)
    write(tmp_path / "merged", *save((base, experts), tmp_path))
    again, report = type(base).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values())
    expected = wemoe.task_arithmetic(base, experts).state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
    found, wanted = (AutoModel.from_pretrained(tmp_path / folder) for folder in ("merged", "base"))
    assert type(found) is type(wanted)


@pytest.mark.parametrize("method", RULES)
def test_every_rule_writes_what_its_function_returns(method, tmp_path):
    base = tiny_bert()
    experts = experts_of(base)
    write(tmp_path / "merged", base, experts, method)
    expected = getattr(wemoe, method)(base, experts).state_dict()
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_large_models_are_sharded_and_narrowed_on_demand(tmp_path):
    base = tiny_bert()
    experts = experts_of(base)
    write(tmp_path / "merged", base, experts, dtype=torch.bfloat16, max_shard_size="5KB")
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
    again = BertModel.from_pretrained(tmp_path / "merged", dtype="auto")
    assert again.dtype == torch.bfloat16
    expected = wemoe.task_arithmetic(base, experts).bfloat16().state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())


def test_what_a_base_needs_beside_its_weights_is_carried_over(tmp_path):
    base, experts = save((tiny_bert(), experts_of(tiny_bert(), 1)), tmp_path)
    (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "sat"]))
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    (base / "preprocessor_config.json").write_text('{"do_resize": true}')
    (base / "generation_config.json").write_text('{"eos_token_id": 2}')
    (base / "optimizer.pt").write_text("no part of the model")
    (base / "trainer_state.json").write_text("{}")
    write(tmp_path / "merged", base, experts)
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    carried = {file.name for file in base.glob("tokenizer*")} | {"preprocessor_config.json", "generation_config.json"}
    assert {"model.safetensors", "config.json", "README.md"} | carried <= names
    assert not {"optimizer.pt", "trainer_state.json"} & names
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")("cat sat").input_ids
    assert tokens == transformers.AutoTokenizer.from_pretrained(base)("cat sat").input_ids


def test_the_card_says_what_it_was_made_of_how_and_how_good_it_is(tmp_path):
    models = tiny_bert(), experts_of(tiny_bert(), 2)
    base, experts = save(models, tmp_path)
    write(tmp_path / "merged", base, experts, metrics={"accuracy": {"task0": 0.51234, "task1": 1}, "loss": 0.25})
    card = (tmp_path / "merged" / "README.md").read_text()
    assert f"| base | base | `{sha256_of_state(models[0].state_dict())}` |" in card
    for task, expert in models[1].items():
        assert f"| expert: {task} | {task} | `{sha256_of_state(expert.state_dict())}` |" in card
    assert "base plus the scaled sum of the task vectors" in card
    assert "| accuracy, task0 | 0.5123 |" in card
    assert "| loss | 0.25 |" in card
    written = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert written == RECIPE | {"base_model": "base"}  # exactly, but for the paths of a machine
    assert "/home/someone" not in card
    assert str(tmp_path) not in card


def test_an_edited_card_stays(tmp_path):
    base, experts = tiny_bert(), experts_of(tiny_bert(), 1)
    write(tmp_path / "merged", base, experts)
    write(tmp_path / "merged", base, experts, metrics={"accuracy": 0.5})
    card = tmp_path / "merged" / "README.md"
    assert "accuracy" in card.read_text()
    card.write_text("my own words")
    write(tmp_path / "merged", base, experts)
    assert card.read_text() == "my own words"


def test_heads_are_kept_apart_and_a_headed_base_becomes_its_backbone(tmp_path):
    """A base that was trained to fill gaps, and experts that classify: backbones are merged."""
    config = AutoConfig.for_model("bert", **BERT)
    base = BertForMaskedLM(config).eval()
    experts = {}
    for t, task in enumerate(("x", "y")):
        experts[task] = BertForSequenceClassification(AutoConfig.for_model("bert", **BERT, num_labels=t + 2)).eval()
        experts[task].bert.load_state_dict(fine_tuned(base.bert, seed=t).state_dict(), strict=False)
    write(tmp_path / "merged", *save((base, experts), tmp_path))
    again, report = BertModel.from_pretrained(tmp_path / "merged", add_pooling_layer=False, output_loading_info=True)
    assert not any(report.values())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == ["BertModel"]
    expected = wemoe.task_arithmetic(base.bert, [fine_tuned(base.bert, seed=t) for t in range(2)]).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
    heads = wemoe.load_heads(tmp_path / "merged")
    for task, expert in experts.items():
        state = expert.state_dict()
        # the base has no pooler, so that the experts' own are parts of their heads
        own = {key for key in state if key.startswith(("classifier", "bert.pooler"))}
        assert heads[task].model_class == "BertForSequenceClassification"
        assert heads[task].tensors.keys() == own
        assert all(torch.equal(heads[task].tensors[key], state[key]) for key in own)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "gives the heads of these tasks, which are not merged: x, y" in card
    assert "- of `base_model`: 5 tensors" in card


def test_headed_models_of_one_class_are_merged_whole(tmp_path):
    base = FAMILIES["gpt2"].make()
    experts = experts_of(base, 2)
    write(tmp_path / "merged", *save((base, experts), tmp_path))
    assert type(GPT2LMHeadModel.from_pretrained(tmp_path / "merged")) is GPT2LMHeadModel
    assert not (tmp_path / "merged" / "heads.safetensors").exists()


def test_tensors_without_a_model_are_written_too(tmp_path):
    states = [Point(a, b, count=7).state_dict() for a, b in ((1, 2), (2, 2), (4, 0))]
    write(tmp_path / "merged", states[0], states[1:])
    # task vectors (1, 0) and (3, -2), 0.3 of their sum added to (1, 2)
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found["a"].item() == pytest.approx(2.2, abs=1e-6)
    assert found["b"].item() == pytest.approx(1.4, abs=1e-6)
    assert found["count"].item() == 7
    assert {file.name for file in (tmp_path / "merged").iterdir()} == {"model.safetensors", "README.md"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("exists", [False, True])
def test_whatever_fails_leaves_the_output_as_it_was(error, exists, tmp_path):
    base, experts = tiny_bert(), experts_of(tiny_bert(), 2)
    output = tmp_path / "merged"
    if exists:
        write(output, base, experts)
    before = contents(tmp_path)
    with open_sources(base, experts) as sources:
        rule = RULES["average"](sources)
        left = iter(range(5))

        def failing(name):
            if next(left, None) is None:
                raise error
            return rule(name)

        with pytest.raises(type(error)):
            write_merged(output, sources, failing, recipe=RECIPE, max_shard_size="2KB")
    assert contents(tmp_path) == before


def test_a_disk_that_is_full_when_a_file_is_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wemoe.shards.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "merged", tiny_bert(), experts_of(tiny_bert(), 1))
    assert contents(tmp_path) == {}


def test_a_routed_model_in_the_same_folder_is_replaced_whole(tmp_path):
    base = tiny_bert()
    experts = experts_of(base, tasks=2)
    wemoe.upcycle(base, experts).save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "wemoe.safetensors").is_file()
    write(tmp_path / "out", base, experts)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_numbers_that_are_not_finite_leave_nothing(tmp_path):
    base, experts = tiny_bert(), experts_of(tiny_bert(), 2)
    experts["task1"].encoder.layer[1].output.dense.bias.data[3] = torch.nan
    with pytest.raises(
        ValueError, match=r"expert_models\['task1'\] .* NaN or infinity in: 'encoder.layer.1.output.dense.bias'"
    ):
        write(tmp_path / "merged", base, experts)
    assert contents(tmp_path) == {}


def test_a_number_beyond_float16_is_named(tmp_path):
    base = tiny_bert()
    experts = experts_of(base, 1)
    base.pooler.dense.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"the merged 'pooler.dense.bias' in float16 must be within"):
        write(tmp_path / "merged", base, experts, dtype=torch.float16)
    assert contents(tmp_path) == {}


def test_a_source_is_never_overwritten(tmp_path):
    base, experts = save((tiny_bert(), experts_of(tiny_bert(), 1)), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="output must be a folder of its own; found that of base_model"):
        write(base, base, experts)
    with pytest.raises(ValueError, match=r"found that of expert_models\['task0'\]"):
        write(experts["task0"], base, experts)
    assert contents(tmp_path) == before


def test_models_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    with (
        open_sources(tiny_bert(), [tiny_bert(hidden_size=32)]) as sources,
        pytest.raises(ValueError, match="must have the shapes of base_model"),
    ):
        write_merged(tmp_path / "merged", sources, sources.base_tensor, recipe=RECIPE)
    assert contents(tmp_path) == {}


def contents(folder):
    """By path, a hash of every file below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
