"""Upcycling from files: what modules give, to the last bit, hashes included, and one block of each expert in memory."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GenerationConfig,
    GPT2Model,
    T5EncoderModel,
)

import wemoe
from headed import headed_experts, inputs_for, with_labels
from models import experts_of, fine_tuned, inputs_of, tiny_bert
from test_memory import MARGIN, SIZES, peak
from tiny_families import FAMILIES, output
from wemoe.merging.rules import open_sources
from wemoe.mlps import parts_at
from wemoe.models import find_blocks
from wemoe.routed_methods import ROUTED_METHODS

FROM_FILES = [name for name in FAMILIES if "openclip" not in name]  # the models that a configuration describes


def upcycled(*sources, **options):
    torch.manual_seed(0)  # of the routers
    return wemoe.upcycle(*sources, progress=False, **options)


def write(folder, models):
    """Save models by name, one of them in shards; return where they are."""
    for number, (name, model) in enumerate(models.items()):
        model.save_pretrained(folder / name, max_shard_size="10KB" if number == 1 else "5GB")
    return {name: folder / name for name in models}


def assert_same(found, expected):
    assert type(found) is type(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert found.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(found.state_dict()[name], tensor), name


def hashes(model):
    made_of = model.routing_config.provenance
    return {"base": made_of.base.sha256} | {task: source.sha256 for task, source in made_of.experts.items()}


@pytest.mark.parametrize("method", ROUTED_METHODS)
@pytest.mark.parametrize("name", FROM_FILES)
def test_folders_give_what_modules_give_to_the_last_bit(name, method, tmp_path):
    base = FAMILIES[name].make()
    experts = experts_of(base)
    expected = upcycled(base, experts, method=method)
    paths = write(tmp_path, {"base": base, **experts})
    random = torch.get_rng_state()
    mixed = {"task0": str(paths["task0"]), "task1": paths["task1"], "task2": experts["task2"].state_dict()}
    found = upcycled(paths["base"], mixed, method=method)
    assert torch.equal(torch.get_rng_state(), random)
    assert not found.training
    assert_same(found, expected)
    inputs = FAMILIES[name].inputs()
    assert torch.equal(output(found, inputs), output(expected, inputs))


def test_folders_are_named_and_hashed_as_the_models_that_are_loaded_from_them(tmp_path):
    base = tiny_bert()
    paths = write(tmp_path, {"base": base, **experts_of(base)})
    file = paths["task1"] / "model.safetensors"  # older versions of transformers wrote a buffer that is computed now
    save_file(load_file(file) | {"embeddings.position_ids": torch.arange(32)[None]}, file, {"format": "pt"})
    loaded, *experts = (BertModel.from_pretrained(path) for path in paths.values())
    expected = upcycled(loaded, dict(zip(("task0", "task1", "task2"), experts, strict=True)))
    found = upcycled(paths.pop("base"), paths)
    assert found.routing_config == expected.routing_config
    assert found.routing_config.provenance.base.name == "base"
    assert found.config._name_or_path == str(tmp_path / "base")


def test_a_model_made_of_folders_is_saved_and_loaded_whole(tmp_path):
    base = FAMILIES["t5"].make()
    base.generation_config = GenerationConfig(decoder_start_token_id=0, max_new_tokens=3)
    paths = write(tmp_path, {"base": base, **experts_of(base)})
    model = upcycled(paths.pop("base"), paths)
    assert model.generation_config.max_new_tokens == 3
    model.save_pretrained(tmp_path / "routed")
    again = wemoe.from_pretrained(tmp_path / "routed", progress=False)
    assert_same(again, model)
    assert again.generation_config.max_new_tokens == 3


@pytest.mark.parametrize("kind", ["bert", "bert tokens", "gpt2", "vit"])
@pytest.mark.parametrize("from_folders", [False, True], ids=["modules", "folders"])
def test_experts_with_heads_are_upcycled_by_their_backbones(from_folders, kind, tmp_path):
    experts = headed_experts(kind)
    base = fine_tuned(experts["three"].base_model, seed=3)
    expected = upcycled(base, {task: expert.base_model for task, expert in experts.items()})
    found = upcycled(base, write(tmp_path, experts) if from_folders else experts)
    assert_same(found, expected)
    found.save_pretrained(tmp_path / "routed", heads=experts)
    heads = wemoe.load_heads(tmp_path / "routed")
    for task, expert in experts.items():
        inputs = inputs_for(expert)
        logits = wemoe.with_head(expected, expert)(**inputs).logits
        assert torch.equal(wemoe.with_head(found, heads[task])(**inputs).logits, logits)


@pytest.mark.parametrize("from_folders", [False, True], ids=["modules", "folders"])
def test_a_base_with_a_head_of_its_own_is_upcycled_by_its_backbone(from_folders, tmp_path):
    base = FAMILIES["gpt2"].make()
    experts = headed_experts("gpt2")
    expected = upcycled(base.transformer, {task: expert.transformer for task, expert in experts.items()})
    paths = write(tmp_path, {"base": base, **experts})
    found = upcycled(paths.pop("base"), paths) if from_folders else upcycled(base, experts)
    assert isinstance(found, GPT2Model)
    assert found.routing_config.base_class == "GPT2Model"
    assert_same(found, expected)
    found.save_pretrained(tmp_path / "routed")
    assert_same(wemoe.from_pretrained(tmp_path / "routed", progress=False), found)


def test_models_with_the_same_head_are_upcycled_whole():
    base = BertForSequenceClassification(with_labels(tiny_bert().config, 3)).eval()
    found = upcycled(base, experts_of(base))
    assert isinstance(found, BertForSequenceClassification)
    merged = wemoe.task_arithmetic(base, experts_of(base), 0.3)
    assert torch.equal(found.classifier.weight, merged.classifier.weight)


def test_what_no_expert_has_stays_the_bases():
    base = tiny_bert()
    masked = {task: fine_tuned(BertForMaskedLM(base.config), seed).eval() for seed, task in enumerate("ab")}
    found = upcycled(base, masked)  # their backbones have no pooler
    assert torch.equal(found.pooler.dense.weight, base.pooler.dense.weight)
    embedding = wemoe.task_arithmetic(base, masked, 0.3).embeddings.word_embeddings.weight
    assert torch.equal(found.embeddings.word_embeddings.weight, embedding)


def test_blocks_that_an_expert_does_not_have_cannot_be_routed():
    base = FAMILIES["t5"].make()
    expert = T5EncoderModel(copy.deepcopy(base.config))  # it changes its configuration
    wemoe.task_arithmetic(base, {"x": expert})  # its decoder stays as it is
    message = r"expert_models\['x'\] must have the blocks of base_model that are routed; missing: 'decoder\.block\.0\."
    with pytest.raises(ValueError, match=message):
        wemoe.upcycle(base, {"x": expert})


@pytest.mark.parametrize("from_folders", [False, True], ids=["modules", "folders"])
def test_differences_are_taken_in_the_dtypes_that_the_models_have(from_folders, tmp_path):
    base = tiny_bert(intermediate_size=24).bfloat16()
    experts = {task: fine_tuned(copy.deepcopy(base).float(), seed) for seed, task in enumerate("ab")}
    model = upcycled(base, write(tmp_path, experts) if from_folders else experts, task_vector_dtype=torch.float32)
    for path, described in find_blocks(base).items():
        tuned, own = (parts_at(each.get_submodule(path), described.mlp) for each in (experts["b"], base))
        found = model.get_submodule(path).get_submodule(described.mlp.replaced).up.task_vectors[1]
        assert torch.equal(found, tuned.up.weight - own.up.weight.float())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ROUTED_METHODS)
def test_experts_in_folders_are_never_in_memory_together(method, size, tmp_path):
    """Beside what modules need: the base, and one block of each expert."""
    tasks, base = 4, tiny_bert(**SIZES[size])
    estimate = wemoe.estimate_memory(base, tasks, method=method)
    paths = write(tmp_path, {"base": base, **experts_of(base, tasks)})
    base_folder = paths.pop("base")
    whole = sum(parameter.nbytes for parameter in base.parameters())
    layer = base.encoder.layer[0]
    block = sum(p.nbytes for part in (layer.intermediate, layer.output.dense) for p in part.parameters())
    found, _ = peak(lambda: upcycled(base_folder, paths, method=method))
    assert found < (1 + MARGIN) * (estimate.peak + whole + tasks * block)


@pytest.mark.parametrize("kind", ["module", "folder"])
def test_what_does_not_fit_is_named_before_any_work(kind, tmp_path, capsys):
    base = tiny_bert()
    narrow = fine_tuned(tiny_bert(intermediate_size=20), seed=1)
    source = write(tmp_path, {"narrow": narrow})["narrow"] if kind == "folder" else narrow
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"expert_models\['x'\] must have the shapes of base_model; 'encoder"):
        wemoe.upcycle(base, {"x": source})
    assert capsys.readouterr().err == ""


def test_heads_of_experts_in_folders_are_read_from_them(tmp_path):
    experts = headed_experts("bert")
    base = tiny_bert()
    with open_sources(base, write(tmp_path, experts)) as sources:
        heads = sources.heads()
    model = upcycled(base, experts)
    model.save_pretrained(tmp_path / "routed", heads=heads)
    inputs = inputs_of(base)
    for task, head in wemoe.load_heads(tmp_path / "routed").items():
        headed = wemoe.with_head(model, experts[task])
        assert torch.equal(wemoe.with_head(model, head)(**inputs).logits, headed(**inputs).logits)
