"""Provenance: what a model was made of, told by names that are public and hashes of state dicts."""

import copy
import hashlib
import json

import pytest
import torch
from huggingface_hub import ModelCard

import wemoe
from models import experts_of, tiny_bert
from tiny_families import FAMILIES
from wemoe.provenance import public_name, sha256_of_state


def test_a_hash_is_of_names_dtypes_shapes_and_bytes_in_the_order_of_the_names():
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3)}
    expected = hashlib.sha256()
    expected.update(b"a\0torch.int64\0()\0" + (3).to_bytes(8, "little"))
    expected.update(b"b\0torch.float32\0(1, 2)\0" + bytes.fromhex("0000c03f000000c0"))
    assert sha256_of_state(state) == expected.hexdigest()
    assert sha256_of_state(dict(sorted(state.items()))) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.ones(2, 3)},
        {"a": torch.ones(3, 2)},
        {"a": torch.ones(2, 3).bfloat16()},
        {"a": torch.ones(2, 3).index_fill(1, torch.tensor(1), 2.0)},
        {"a": torch.ones(2, 3), "b": torch.empty(0)},
    ],
)
def test_any_difference_shows(other):
    assert sha256_of_state(other) != sha256_of_state({"a": torch.ones(2, 3)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_every_dtype_and_any_strides_are_hashed(dtype):
    tensor = torch.arange(6).view(2, 3).to(dtype)
    assert sha256_of_state({"a": tensor.t().contiguous().t()}) == sha256_of_state({"a": tensor})


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("owner/model", "owner/model"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/home/jane/models/bert", "bert"),
        ("~/models/bert/", "bert"),
        ("./bert", "bert"),
        ("../secret/bert", "bert"),
        ("C:\\Users\\jane\\bert", "bert"),
        ("some/deeper/folder", "folder"),
        ("/", None),
        ("", None),
        (None, None),
    ],
)
def test_of_a_local_folder_only_the_last_part_is_named(name, public):
    assert public_name(name) == public


def test_a_folder_that_is_there_is_local_whatever_its_name_looks_like(tmp_path, monkeypatch):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("owner/model") == "model"


@pytest.fixture
def sources():
    base = tiny_bert()
    base.config._name_or_path = "google/tiny"
    experts = experts_of(base, tasks=3)
    for expert, name in zip(experts.values(), ("owner/first", "/home/jane/second", ""), strict=True):
        expert.config = copy.deepcopy(base.config)
        expert.config._name_or_path = name
    return base, experts


def test_a_model_says_what_it_was_made_of(sources):
    base, experts = sources
    found = wemoe.upcycle(base, experts).routing_config.provenance
    assert (found.base.name, found.base.sha256) == ("google/tiny", sha256_of_state(base.state_dict()))
    assert list(found.experts) == list(experts)
    assert [source.name for source in found.experts.values()] == ["owner/first", "second", None]
    for task, expert in experts.items():
        assert found.experts[task].sha256 == sha256_of_state(expert.state_dict())


def test_a_checkpoint_says_it_too_and_names_no_folder_of_this_machine(sources, tmp_path):
    base, experts = sources
    base.config._name_or_path = "/home/jane/base"
    model = wemoe.upcycle(base, experts)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["wemoe"]["format_version"] == 2
    assert written["wemoe"]["wemoe_version"] == wemoe.__version__
    assert written["wemoe"]["provenance"] == model.routing_config.provenance.model_dump()
    assert not any("jane" in path.read_text(errors="ignore") for path in tmp_path.iterdir())
    assert wemoe.from_pretrained(tmp_path).routing_config == model.routing_config


def test_configurations_inside_a_configuration_name_no_folder_either(tmp_path):
    base = FAMILIES["clip"].make()
    base.config.vision_config._name_or_path = "/home/jane/vision"
    wemoe.upcycle(base, experts_of(base, 1)).save_pretrained(tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert "jane" not in written
    assert json.loads(written)["base_config"]["vision_config"]["_name_or_path"] == "vision"


def test_the_card_is_metadata_a_table_of_sources_and_how_to_load(sources, tmp_path):
    base, experts = sources
    experts = {"first|task": experts["task0"], "task1": experts["task1"], "task2": experts["task2"]}
    model = wemoe.upcycle(base, experts, init_lambda=0.25, router_hidden_layers=1)
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "library_name": "wemoe",
        "tags": ["merge", "wemoe"],
        "base_model": ["google/tiny", "owner/first"],  # what the Hub may know; local folders are not among them
    }
    provenance = model.routing_config.provenance
    for row in (
        f"| base | google/tiny | `{provenance.base.sha256}` |",
        f"| expert: first\\|task | owner/first | `{provenance.experts['first|task'].sha256}` |",
        f"| expert: task1 | second | `{provenance.experts['task1'].sha256}` |",
        f"| expert: task2 | unknown | `{provenance.experts['task2'].sha256}` |",
        "| method | wemoe |",
        "| initial routing weight | 0.25 |",
        "| router depth | 1 |",
        "wemoe.from_pretrained(",
    ):
        assert row in card.text


def test_a_card_is_written_again_unless_somebody_edited_it(sources, tmp_path):
    base, experts = sources
    card = tmp_path / "README.md"
    wemoe.upcycle(base, experts).save_pretrained(tmp_path)
    first = card.read_text()
    wemoe.upcycle(base, experts, init_lambda=0.5).save_pretrained(tmp_path)
    second = card.read_text()
    assert first != second
    for edited in (second.replace("# BertModel", "# My model"), second + "More.\n", "Mine alone.\n", ""):
        card.write_text(edited)
        wemoe.upcycle(base, experts).save_pretrained(tmp_path)
        assert card.read_text() == edited


def test_the_card_of_a_model_without_provenance_names_its_tasks(sources, tmp_path):
    model = wemoe.upcycle(*sources)
    model.routing_config = model.routing_config.model_copy(update={"provenance": None})
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "does not say. Tasks: task0, task1, task2" in text
    assert "base_model" not in text


def test_an_expert_that_is_a_fine_tuned_copy_does_not_take_the_bases_name():
    base = tiny_bert()
    base.config._name_or_path = "google/tiny"
    found = wemoe.upcycle(base, experts_of(base)).routing_config.provenance
    assert found.base.name == "google/tiny"
    assert {source.name for source in found.experts.values()} == {None}
