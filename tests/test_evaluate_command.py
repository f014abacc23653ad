"""`wemoe evaluate`: which models it reads, through which heads, and what it prints and writes."""

import json

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import wemoe
from models import randomised
from task_folders import LABELS, image_folders, image_settings, text_folders, text_settings
from tiny_texts import tiny_base, tiny_tasks
from wemoe.cli import app
from wemoe.data import minilm, text6
from wemoe.heads import write_heads
from wemoe.merge_config import read_config
from wemoe.merged_folders import write_merged
from wemoe.merging import RULES
from wemoe.merging.rules import open_sources
from wemoe.model_folders import load_model
from wemoe.suites import load_suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, data, the configuration `config.yaml`, and what was merged: `routed`, `plain` and `bare` (no heads).

    `written` is what `wemoe merge` writes.
    """
    folder = text_folders(tmp_path_factory.mktemp("evaluate"))
    write_config(folder, text_settings(folder))
    suite = load_suite(read_config(folder / "config.yaml"))
    torch.manual_seed(0)  # of the routers; fixtures of a module come before the seed of a test
    routed = randomised(wemoe.upcycle(suite.base, suite.experts, progress=False))
    routed.save_pretrained(folder / "routed", heads=suite.heads)
    plain = wemoe.average(suite.base, suite.experts)
    for name in ("plain", "bare"):
        plain.save_pretrained(folder / name)
    write_heads(suite.heads, folder / "plain")
    with open_sources(folder / "base", {task: folder / task for task in LABELS}) as sources:
        write_merged(folder / "written", sources, RULES["average"](sources), recipe={"merge_method": "linear"})
    return folder


@pytest.fixture(scope="module")
def suite(folder):
    return load_suite(read_config(folder / "config.yaml"))


def write_config(folder, settings, name="config.yaml"):
    (folder / name).write_text(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False), encoding="utf-8")
    return folder / name


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"WEMOE_DEBUG": None})


def results_of(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def error_of(*arguments):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


@pytest.mark.parametrize("name", ["routed", "plain", "bare", "written"])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_model_is_scored_on_every_task(folder, suite, name, part):
    """The heads are the model's own, or where it has none those of the experts: the same ones here."""
    model = wemoe.from_pretrained(folder / name) if name == "routed" else load_model(str(folder / name), name)
    expected = suite.score(model, part=part)
    found = results_of(folder / name, "--config", folder / "config.yaml", "--part", part)
    assert found == {
        "model": str(folder / name),
        "part": part,
        "accuracy": expected,
        "average": pytest.approx(sum(expected.values()) / 2),
        "samples": {"colours": 20, "animals": 20},
    }


def test_the_models_differ(folder):
    """Or the tests above could not tell one from another."""
    found = [
        results_of(folder / name, "--config", folder / "config.yaml", "--part", part)["accuracy"]
        for name in ("routed", "plain")
        for part in ("train", "validation", "test")
    ]
    assert len({tuple(each.values()) for each in found}) > 2


@pytest.mark.parametrize("kind", ["plain", "routed"])
def test_a_headed_model_reads_tasks_through_its_own_head(folder, suite, tmp_path, kind):
    model = suite.experts["animals"]
    if kind == "routed":
        model = randomised(wemoe.upcycle(suite.base, suite.experts, progress=False))
    wemoe.with_head(model, suite.heads["animals"]).save_pretrained(tmp_path / "headed")
    found = results_of(tmp_path / "headed", "--config", folder / "config.yaml", "--task", "animals")
    assert found["accuracy"] == suite.score(model, ["animals"])
    error = error_of(tmp_path / "headed", "--config", folder / "config.yaml", "--task", "colours")
    assert "column 'label' must be a label's name ('bird', 'beast', 'both') or a number from 0 to 2; found" in error


def test_a_head_that_the_configuration_names_goes_first(folder, suite, tmp_path):
    (tmp_path / "heads").mkdir()
    head = nn.Linear(16, 2)
    write_heads({"colours": head}, tmp_path / "heads")
    settings = text_settings(folder)
    settings["tasks"] = {"colours": settings["tasks"]["colours"] | {"labels": LABELS["colours"]}}
    settings["tasks"]["colours"]["head"] = str(tmp_path / "heads")
    config = write_config(folder, settings, "named.yaml")
    model = load_model(str(folder / "plain"), "plain")
    right = total = 0
    for batch, labels in suite.batches(["colours"])["colours"]:
        mask = batch.inputs["attention_mask"].unsqueeze(-1)
        hidden = (model(**batch.inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        right += (head(hidden).argmax(dim=1) == labels).sum().item()
        total += len(labels)
    found = results_of(folder / "plain", "--config", config)
    assert found["accuracy"] == {"colours": right / total}


def test_the_table_has_a_line_for_each_task_and_the_average(folder, suite):
    result = run(folder / "plain", "--config", folder / "config.yaml")
    scores = suite.score(load_model(str(folder / "plain"), "plain"))
    header, *rows = result.stdout.splitlines()
    assert header.split("  ")[0] == "task"
    assert "test accuracy, %" in header
    shown = [*scores.items(), ("average", sum(scores.values()) / 2)]
    assert [row.split()[:2] for row in rows] == [[task, f"{100 * share:.1f}"] for task, share in shown]
    assert [row.split()[2:] for row in rows] == [["20"], ["20"], []]
    assert "load model" in result.stderr


def test_the_results_are_written_as_json(folder, tmp_path):
    output = tmp_path / "new" / "results.json"
    printed = results_of(folder / "plain", "--config", folder / "config.yaml", "--output", output)
    assert json.loads(output.read_text(encoding="utf-8")) == printed


def test_experts_are_not_loaded_where_the_model_has_the_heads(folder, tmp_path):
    settings = text_settings(folder)
    settings["models"] = [{"model": str(tmp_path / task), "task": task} for task in LABELS]
    config = write_config(folder, settings, "without.yaml")
    assert results_of(folder / "plain", "--config", config)["accuracy"].keys() == LABELS.keys()
    message = "the model of task 'colours' must be a folder or a repository of the Hub; found neither at "
    assert message + repr(str(tmp_path / "colours")) in error_of(folder / "bare", "--config", config)


def test_images_are_evaluated(tmp_path):
    config = write_config(image_folders(tmp_path), image_settings(tmp_path))
    suite = load_suite(read_config(config))
    found = results_of(tmp_path / "expert", "--config", config)
    assert found["accuracy"] == suite.score(suite.experts["colours"])
    assert found["samples"] == {"colours": 3}


# --- the built-in suite ---------------------------------------------------------------------------------------------


@pytest.fixture
def built_in(monkeypatch, tmp_path):
    base, tokenizer = tiny_base()
    monkeypatch.setenv("WEMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(minilm, "load", lambda: (base, tokenizer))
    monkeypatch.setattr(text6, "load", tiny_tasks)
    return base


@pytest.mark.parametrize("beside", [True, False])
def test_a_built_in_suite_needs_its_experts_only_for_their_heads(built_in, tmp_path, monkeypatch, beside):
    built_in.save_pretrained(tmp_path / "model")
    if beside:
        write_heads({task: nn.Linear(16, 2) for task in tiny_tasks()}, tmp_path / "model")
    found = results_of(tmp_path / "model", "--suite", "text6")
    assert found["samples"] == dict.fromkeys(tiny_tasks(), 24)
    assert (tmp_path / "cache" / "experts").exists() is not beside
    only = results_of(tmp_path / "model", "--suite", "text6", "--task", "animals")
    assert only["accuracy"] == {"animals": found["accuracy"]["animals"]}
    assert "a task must be one of ['colours', 'animals']; found ['icd']" in error_of(
        tmp_path / "model", "--suite", "text6", "--task", "icd"
    )


# --- what is refused ------------------------------------------------------------------------------------------------


def test_the_tasks_must_be_told(folder):
    assert "evaluate needs either --config or --suite" in error_of(folder / "plain")
    both = ("--config", folder / "config.yaml", "--suite", "text6")
    assert "evaluate needs either --config or --suite" in error_of(folder / "plain", *both)
    settings = text_settings(folder)
    del settings["tasks"]
    config = write_config(folder, settings, "no-tasks.yaml")
    assert "tasks must be given, or suite" in error_of(folder / "plain", "--config", config)


def test_what_is_asked_for_must_be_there(folder, tmp_path):
    config = folder / "config.yaml"
    assert "a task must be one of ['colours', 'animals']; found ['icd']" in error_of(
        folder / "plain", "--config", config, "--task", "icd"
    )
    settings = text_settings(folder)
    del settings["tasks"]["animals"]["test"]
    config = write_config(folder, settings, "no-test.yaml")
    assert "tasks.animals.test must name a data file, to evaluate on it; found none" in error_of(
        folder / "plain", "--config", config
    )
    assert results_of(folder / "plain", "--config", config, "--task", "colours")["accuracy"].keys() == {"colours"}


def test_the_model_must_be_there(folder, tmp_path):
    config = folder / "config.yaml"
    message = f"a model must be a folder with config.json, or a repository; found none at '{tmp_path}'"
    assert message in error_of(tmp_path, "--config", config)


def test_the_output_is_checked_before_any_work(folder, tmp_path):
    error = error_of(tmp_path / "no model", "--config", folder / "config.yaml", "--output", tmp_path)
    assert f"--output must be a file; found a folder at '{tmp_path}'" in error
    (tmp_path / "file").touch()
    error = error_of(
        tmp_path / "no model", "--config", folder / "config.yaml", "--output", tmp_path / "file" / "a.json"
    )
    assert "must be a folder; found a file there" in error


def test_a_model_of_another_library_is_refused(folder, tmp_path):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)

        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(Block())])

    base, expert = Own(), Own()
    with torch.no_grad():
        wemoe.upcycle(base, [expert], progress=False).save_pretrained(tmp_path / "own")
    error = error_of(tmp_path / "own", "--config", folder / "config.yaml")
    assert "must name a model class of transformers" in error
