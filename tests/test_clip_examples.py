"""The examples for the published CLIPs, run as they stand on tiny models and data sets of the same kinds."""

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

import wemoe
from clip_examples import EXAMPLES, clip_example
from wemoe.cli import app
from wemoe.configured_merge import merge
from wemoe.evaluation.checkpoints import evaluate_checkpoint
from wemoe.merge_config import parse_config, read_config
from wemoe.suites import load_suite

NAMES = ("clip_vit_b32_8tasks", "clip_vit_l14_8tasks")
TASKS = ["sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd"]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """By name, an example's folder, and what it says."""
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    return {name: (folder, clip_example(name, folder)) for name, folder in folders.items()}


@pytest.fixture(params=NAMES)
def example(request, examples):
    return examples[request.param]


def test_the_examples_name_what_is_published():
    for name, size in zip(NAMES, ("base-patch32", "large-patch14"), strict=True):
        config = read_config(EXAMPLES / f"{name}.yaml")
        assert config.base_model == f"openai/clip-vit-{size}"
        assert list(config.experts) == list(config.tasks) == TASKS
        assert all(model.startswith(f"tanganke/clip-vit-{size}_") for model in config.experts.values())
        named = {task: str(found.dataset) for task, found in config.tasks.items()}
        assert named == {
            "sun397": "tanganke/sun397",
            "cars": "tanganke/stanford_cars",
            "resisc45": "tanganke/resisc45",
            "eurosat": "tanganke/eurosat",
            "svhn": "ufldl-stanford/svhn (cropped_digits)",
            "gtsrb": "tanganke/gtsrb",
            "mnist": "ylecun/mnist",
            "dtd": "tanganke/dtd",
        }
        heads = {task: found.zero_shot for task, found in config.tasks.items()}
        assert all(head.classes is None for head in heads.values())  # the data sets call them what the heads do
        assert {task: len(set(head.templates)) for task, head in heads.items()} == {
            "sun397": 2, "cars": 8, "resisc45": 18, "eurosat": 3, "svhn": 1, "gtsrb": 3, "mnist": 1, "dtd": 8
        }  # fmt: skip


def test_an_example_is_compared(examples, tmp_path):
    """Its own rows, few of them, for a step."""
    folder, content = examples["clip_vit_b32_8tasks"]
    methods = {name: content["methods"][name] for name in ("average", "wemoe_entropy")}
    (folder / "config.yaml").write_text(yaml.safe_dump(content | {"methods": methods, "steps": 1}))
    run = CliRunner().invoke(app, ["compare", str(folder / "config.yaml"), "--output", str(tmp_path)])
    assert run.exit_code == 0, run.output
    results = json.loads((tmp_path / "comparison.json").read_text())
    assert list(results["rows"]) == ["pretrained", "individual", "average", "wemoe_entropy"]
    assert all(row["accuracy"].keys() == set(TASKS) for row in results["rows"].values())


def test_heads_are_those_of_the_text_tower(example):
    folder, content = example
    suite = load_suite(parse_config(content, folder), parts=("test",))
    # what the data sets call their labels, with spaces
    for task, classes in {"mnist": list("0123456789"), "dtd": ["first kind", "second kind"]}.items():
        expected = wemoe.zero_shot_head(
            folder / "base", None, classes, content["tasks"][task]["zero_shot"]["templates"]
        )
        assert torch.equal(suite.heads[task].classes, expected.classes)
        assert suite.tasks[task].num_labels == suite.heads[task].out_features == len(classes)


@pytest.mark.parametrize(("method", "name"), [("wemoe", NAMES[0]), ("regmean", NAMES[1])])
def test_what_an_example_merges_is_evaluated_by_itself(examples, tmp_path, method, name):
    """A routed and a plain model, saved with the heads; the evaluation needs neither experts nor text tower."""
    folder, content = examples[name]
    parameters = {"wemoe": {"steps": 1, "objective": "entropy"}, "regmean": {"examples": 2}}[method]
    own = {key: content[key] for key in ("base_model", "models", "tasks")}
    config = parse_config(own | {"merge_method": method, "parameters": parameters}, folder)
    made = merge(config, tmp_path / "out", progress=False)
    heads = wemoe.load_heads(tmp_path / "out")
    assert heads.keys() == set(TASKS)
    assert all(isinstance(head, wemoe.ZeroShotHead) for head in heads.values())

    unnamed = {task: {k: v for k, v in said.items() if k != "zero_shot"} for task, said in own["tasks"].items()}
    alone = parse_config(own | {"tasks": unnamed}, folder)
    assert evaluate_checkpoint(str(tmp_path / "out"), alone, progress=False)["accuracy"] == made.accuracy


def test_a_model_without_a_head_is_evaluated_by_the_names_of_the_classes(examples):
    folder, content = examples["clip_vit_b32_8tasks"]
    config = parse_config({key: content[key] for key in ("base_model", "models", "tasks")}, folder)
    suite = load_suite(config, parts=("test",))
    found = evaluate_checkpoint(str(folder / "dtd"), config, tasks=["dtd", "mnist"], progress=False)
    assert found["accuracy"] == suite.score(suite.experts["dtd"], ["dtd", "mnist"])
    whole = evaluate_checkpoint(str(folder / "base"), config, tasks=["dtd", "mnist"], progress=False)  # both towers
    assert whole["accuracy"] == suite.score(suite.base, ["dtd", "mnist"])
