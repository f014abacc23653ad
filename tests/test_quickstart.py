"""The quick start's whole path on a tiny random BERT and two tiny tasks."""

import json
import os

import pytest
import torch
from PIL import Image

import wemoe
from tiny_texts import tiny_base, tiny_tasks
from wemoe.data import minilm, text6
from wemoe.experts import FineTuning
from wemoe.quickstart import Recipe, run

METHODS = ["pretrained", "individual", "average", "task_arithmetic", "wemoe_depth0", "wemoe", "wemoe_entropy"]
RECIPE = Recipe(max_length=12, fine_tuning=FineTuning(epochs=1), scalings=(0.3, 0.5)).with_steps(3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEMOE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def quickstart(output, **arguments):
    return run(output=output, recipe=RECIPE, tasks=tiny_tasks(), base=tiny_base(), **arguments)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, quickstart(folder)


def test_results_follow_the_schema(finished):
    folder, returned = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["methods"] == returned["methods"]
    assert results["tasks"] == ["colours", "animals"]
    assert sorted(results["methods"]) == sorted(METHODS)
    for method in results["methods"].values():
        assert set(method) == {"accuracy", "average"}
        assert list(method["accuracy"]) == results["tasks"]
        assert all(0 <= accuracy <= 1 for accuracy in method["accuracy"].values())
        assert method["average"] == pytest.approx(sum(method["accuracy"].values()) / 2)
    assert results["seed"] == 0
    assert results["timings"]["wemoe"] > 0
    assert results["environment"]["wemoe"] == wemoe.__version__


def test_only_the_named_files_are_written(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"results.json", "accuracy.png", "routing.png", "model"}
    for plot in ("accuracy.png", "routing.png"):
        with Image.open(folder / plot) as image:
            image.verify()


def test_the_saved_model_needs_neither_base_nor_experts(finished):
    folder, _ = finished
    model = wemoe.from_pretrained(folder / "model")
    tokens = tiny_base()[1](["the dog is red"], return_tensors="pt")
    heads = wemoe.load_heads(folder / "model")
    assert heads.keys() == {"colours", "animals"}
    with torch.no_grad():
        features = model(**tokens).last_hidden_state.mean(dim=1)
        assert all(head(features).isfinite().all() for head in heads.values())


def test_one_seed_gives_equal_results_and_models(finished, tmp_path):
    folder, results = finished
    again = quickstart(tmp_path)
    for key in ("methods", "routing", "adaptation", "task_arithmetic_validation"):
        assert again[key] == results[key]
    for name in ("wemoe.safetensors", "heads.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_steps_override_the_recipe(cache, tmp_path):
    assert len(quickstart(tmp_path, steps=1)["adaptation"]["wemoe"]["loss"]) == 1


def test_steps_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        run(steps=0, output=tmp_path)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    def fail():
        raise AssertionError("work began")

    monkeypatch.setattr(minilm, "load", fail)
    monkeypatch.setattr(text6, "load", fail)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="output folder"):
        run(output=file)
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    if not os.access(folder, os.W_OK):  # root may write anywhere
        with pytest.raises(PermissionError, match="must be writable"):
            run(output=folder)
