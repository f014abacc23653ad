"""What methods that read data keep wherever models come from: the same result, one expert at a time in memory."""

import weakref
from functools import partial

import pytest
import torch
from transformers import BertModel

import wemoe
from models import fine_tuned, inputs_of, tiny_bert
from wemoe.merged_folders import write_merged
from wemoe.merging.rules import open_sources

TASKS = ("x", "y", "z")

RUNS = {
    "fisher": partial(wemoe.fisher, examples=4),
    "regmean": partial(wemoe.regmean, examples=4),
    "adamerging": partial(wemoe.adamerging, steps=2, learning_rate=0.1, progress=False),
    "adamerging++": partial(wemoe.adamerging, steps=2, learning_rate=0.1, density=0.5, progress=False),
    "adamerging, match": partial(wemoe.adamerging, steps=2, learning_rate=0.1, objective="match", progress=False),
}
every_method = pytest.mark.parametrize("name", RUNS)


def predict(model, batch, task):
    return model(**batch).pooler_output


@pytest.fixture
def models():
    base = tiny_bert()
    batches = {task: [inputs_of(base)] * 2 for task in TASKS}
    return base, {task: fine_tuned(base, seed=t) for t, task in enumerate(TASKS)}, batches


@pytest.fixture
def folders(models, tmp_path):
    base, experts, _ = models
    for name, model in {"base": base, **experts}.items():
        model.save_pretrained(tmp_path / name, max_shard_size="10KB" if name == "y" else "5GB")
    return tmp_path


@every_method
def test_folders_give_what_modules_give_to_the_last_bit(name, models, folders):
    base, experts, batches = models
    expected = RUNS[name](base, experts, batches, predict)
    paths = {"x": str(folders / "x"), "y": folders / "y", "z": experts["z"].state_dict()}
    state = torch.get_rng_state()
    merged = RUNS[name](folders / "base", paths, batches, predict)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(merged) is BertModel
    assert merged.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(t, expected.state_dict()[key]) for key, t in merged.state_dict().items())


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_there_is_one_expert_at_a_time(name, models, folders):
    base, _, batches = models
    seen, most = weakref.WeakSet(), 0

    def watched(model, batch, task):
        nonlocal most
        seen.add(model)
        most = max(most, len(seen))
        return predict(model, batch, task)

    RUNS[name](base, {task: folders / task for task in TASKS}, batches, watched)
    assert most == 1
    assert len(seen) == 0


def test_adamerging_runs_experts_for_match_alone(models, folders):
    base, _, batches = models
    for name, count in (("adamerging", 1), ("adamerging, match", 1 + len(TASKS))):
        seen = set()

        def watched(model, batch, task, seen=seen):
            seen.add(id(model))
            return predict(model, batch, task)

        RUNS[name](base, {task: folders / task for task in TASKS}, batches, watched)
        assert len(seen) == count


@every_method
def test_what_does_not_fit_is_named_before_anything_runs(name, models, folders):
    def unwanted(model, batch, task):
        raise AssertionError(task)

    _, experts, batches = models
    narrow = fine_tuned(tiny_bert(intermediate_size=20), seed=5)
    narrow.save_pretrained(folders / "narrow")
    for last in (folders / "narrow", narrow, narrow.state_dict()):
        with pytest.raises(ValueError, match=r"expert_models\['z'\] must have the shapes of base_model"):
            RUNS[name](folders / "base", experts | {"z": last}, batches, unwanted)
    with pytest.raises(FileNotFoundError, match=r"expert_models\['z'\] must be a folder or a repository"):
        RUNS[name](folders / "base", experts | {"z": folders / "nowhere"}, batches, unwanted)
    with pytest.raises(TypeError, match="base_model must be a module or a checkpoint's folder"):
        RUNS[name](experts["x"].state_dict(), experts, batches, unwanted)


@every_method
def test_a_folder_with_a_number_that_is_none_is_named(name, models, folders):
    base, experts, batches = models
    with torch.no_grad():
        experts["y"].pooler.dense.weight[0, 0] = torch.inf
    experts["y"].save_pretrained(folders / "broken")
    paths = experts | {"y": folders / "broken"}
    with pytest.raises(ValueError, match=r"expert_models\['y'\] must hold finite numbers; .* 'pooler.dense.weight'"):
        RUNS[name](base, paths, batches, predict)


def test_what_is_merged_is_written_as_a_plain_folder(models, folders):
    _, _, batches = models
    experts = {task: folders / task for task in TASKS}
    merged = RUNS["fisher"](folders / "base", experts, batches, predict)
    with open_sources(folders / "base", experts) as sources:
        rule = merged.state_dict().__getitem__
        write_merged(folders / "merged", sources, rule, recipe={"merge_method": "fisher"})
    loaded = BertModel.from_pretrained(folders / "merged")
    assert all(torch.equal(t, merged.state_dict()[key]) for key, t in loaded.state_dict().items())
