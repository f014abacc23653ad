"""`wemoe pareto` and `wemoe unload --preference`: from a configuration to a front, and to the model of a preference."""

import csv
import json
import sys

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

import wemoe
from task_folders import text_folders, text_settings
from wemoe import cli
from wemoe.configured_fronts import preferences_for
from wemoe.configured_pareto import kept_training
from wemoe.merge_config import read_config
from wemoe.pareto.fronts import evaluate, read_front_json
from wemoe.pareto.full_model import fine_tune_together
from wemoe.pareto.training import train
from wemoe.suites import load_suite

PARAMETERS = {"steps": 3, "learning_rate": 0.05, "batch_size": 4}
PARETO = {"points": 3, "baselines": ["static", "grid"]}


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], env={"WEMOE_DEBUG": None})


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments):
    """What a command that is refused says beside its progress, line by line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    told = "wemoe: error: "
    return [line.removeprefix(told) for line in result.stderr.splitlines() if line.startswith(told)]


def write(folder, name="pareto", **changes):
    """The configuration of a small front between the two tasks of `text_folders`."""
    content = text_settings(folder) | {"merge_method": "pwemoe", "parameters": PARAMETERS, "pareto": PARETO, "seed": 1}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail(*_args, **_kwargs):
    raise AssertionError("work began")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a configuration, the front that was made of it, and what was said."""
    folder = text_folders(tmp_path_factory.mktemp("pareto"))
    file = write(folder)
    return folder, file, succeed("pareto", file, "--output", folder / "front")


@pytest.fixture
def texts(tmp_path):
    """A base, two classifiers and their data."""
    return text_folders(tmp_path)


# --- what is made ----------------------------------------------------------------------------------------------------


def test_a_front_is_a_model_a_table_and_a_plot(made):
    folder, _, _ = made
    names = {name for name in files_in(folder / "front") if "/" not in name}
    assert names == {"front.json", "front.csv", "front.png"}
    with Image.open(folder / "front" / "front.png") as image:
        image.verify()
    assert set(wemoe.load_heads(folder / "front" / "model")) == {"colours", "animals"}
    assert AutoTokenizer.from_pretrained(folder / "front" / "model")("hot")["input_ids"]
    assert not list(folder.glob("*.training-*"))  # which is kept until the folder is written


def test_the_model_and_its_front_are_what_the_functions_make(made):
    folder, file, _ = made
    suite = load_suite(read_config(file))
    torch.manual_seed(1)
    model = wemoe.upcycle(suite.base, suite.experts, method="pwemoe", progress=False)
    options = {"steps": 3, "learning_rate": 0.05, "seed": 1, "progress": False}
    train(model, suite.labelled_streams(4, 1), suite.loss, **options)
    found = wemoe.from_pretrained(folder / "front" / "model", progress=False).state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())

    own, *_ = read_front_json(folder / "front" / "front.json")
    expected = evaluate(model, suite.measure, preferences_for(2, 3), label="PWEMoE-LS", progress=False)
    assert own == expected
    assert [point.preference for point in own.points] == [(0, 1), (0.5, 0.5), (1, 0)]


def test_baselines_experts_and_base_are_measured_alike(made):
    folder, _, said = made
    fronts = read_front_json(folder / "front" / "front.json")
    labels = [front.label for front in fronts]
    assert labels[0] == "PWEMoE-LS"
    assert labels[1].startswith("task arithmetic x ")
    assert labels[2:] == ["coefficient grid", "individual models", "pre-trained"]
    assert [len(front.points) for front in fronts] == [3, 3, 25, 2, 1]
    with (folder / "front" / "front.csv").open(newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 34
    summary = json.loads((folder / "front" / "front.json").read_text())["summary"]
    assert list(summary["figures"]) == labels
    assert summary["training"] == {"steps": 3, "fallbacks": {}}
    assert summary["reference_losses"] == fronts[-1].points[0].losses
    assert summary["figures"]["pre-trained"]["loss_hypervolume"] == 0  # it is the corner up to which volume is counted
    assert str(folder) not in json.dumps(summary)  # paths of this machine are nobody else's business
    assert all(f"\n{label} " in said for label in labels)
    assert "3 steps; training took " in said


def test_one_configuration_gives_one_front(made):
    folder, file, _ = made
    succeed("pareto", file, "--output", folder / "again")
    first, again = (files_in(folder / name) for name in ("front", "again"))
    assert first.keys() == again.keys()
    assert all(first[name] == again[name] for name in ("front.csv", "model/wemoe.safetensors"))


def test_options_take_the_place_of_the_files_keys(texts):
    file = write(texts, pareto={"points": 2, "baselines": []})
    succeed("pareto", file, "--output", texts / "front", "--steps", "1", "--seed", "7")
    summary = json.loads((texts / "front" / "front.json").read_text())["summary"]
    assert (summary["seed"], summary["training"]["steps"]) == (7, 1)
    own, *others = read_front_json(texts / "front" / "front.json")
    assert [point.preference for point in own.points] == [(0, 1), (1, 0), (0.5, 0.5)]  # equal preference too
    assert [front.label for front in others] == ["individual models", "pre-trained"]


def test_epo_tells_its_fallbacks_and_routers_may_learn_from_validation_data(texts):
    parameters = PARAMETERS | {"scalarization": "epo", "train_on": "validation", "modules": "all"}
    pareto = {"points": 2, "baselines": ["static"], "samples": 5}
    file = write(texts, parameters=parameters, pareto=pareto)
    said = succeed("pareto", file, "--output", texts / "front")
    assert "\nPWEMoE-EPO " in said
    assert "steps in which EPO fell back on simpler weights: none" in said
    learned = wemoe.from_pretrained(texts / "front" / "model", progress=False)
    assert learned.routing_config.modules == "all"
    # not what the training data teach
    succeed("pareto", write(texts, "train", parameters=parameters | {"train_on": "train"}, pareto={"points": 2}),
            "--output", texts / "other")  # fmt: skip
    other = wemoe.from_pretrained(texts / "other" / "model", progress=False).state_dict()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in learned.state_dict().items())


def test_the_whole_base_may_be_fine_tuned_beside_it(texts):
    how = {"steps": 2, "learning_rate": 1e-2, "batch_size": 4}
    file = write(texts, pareto={"points": 2, "baselines": ["ls", "epo", "mgda"], "fine_tuning": how})
    succeed("pareto", file, "--output", texts / "front")
    fronts = {front.label: front for front in read_front_json(texts / "front" / "front.json")}
    suite = load_suite(read_config(file))
    for name in ("ls", "epo", "mgda"):
        (point,) = fronts[f"fine-tuned together, {name.upper()}"].points
        options = {"steps": 2, "learning_rate": 1e-2, "seed": 1, "progress": False}
        streams = suite.labelled_streams(4, 1)
        loaders = {task: streams[task] for task in suite.experts}
        model, _ = fine_tune_together(suite.base, loaders, suite.loss, scalarization=name, **options)
        assert point.losses == suite.measure(model).losses
        assert point.preference == (None if name == "mgda" else (0.5, 0.5))


def test_a_baseline_that_is_not_installed_is_told_before_any_work(texts, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    monkeypatch.setattr("wemoe.configured_pareto.load_suite", fail)
    (line,) = refusal("pareto", write(texts, pareto={"baselines": ["mgda"]}), "--output", texts / "front")
    assert line == "MGDA needs TorchJD, which is not installed: pip install 'wemoe[mgda]'"


# --- what is refused, and what an interrupt leaves -------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_any_work(texts, monkeypatch):
    monkeypatch.setattr("wemoe.configured_pareto.load_suite", fail)
    before = set(files_in(texts))
    file = write(texts, merge_method="fisher", parameters={}, pareto=None)
    (line,) = refusal("pareto", file, "--output", texts / "front")
    assert line == "merge_method: must be pwemoe, which makes a front; found 'fisher'"
    (line,) = refusal("pareto", write(texts, parameters={"step": 1}), "--output", texts / "front")
    assert line == "parameters.step: unknown key; did you mean 'steps'?"
    (texts / "taken").write_text("")
    (line,) = refusal("pareto", write(texts), "--output", texts / "taken")
    assert "must be a folder; found a file" in line
    (texts / "base").rename(texts / "model")
    file = write(texts, base_model=str(texts / "model"))
    (line,) = refusal("pareto", file, "--output", texts)
    assert line.startswith("output must be a folder of its own; found that of base_model")
    (texts / "model").rename(texts / "base")
    assert set(files_in(texts)) == before | {"taken", "pareto.yaml"}


def test_an_interrupted_run_leaves_its_training_which_can_go_on(made, texts, monkeypatch):
    folder, _, _ = made
    file = write(texts)
    measured = wemoe.suites.Suite.measure
    monkeypatch.setattr("wemoe.suites.Suite.measure", lambda *_args, **_options: fail())
    assert isinstance(run("pareto", file, "--output", texts / "front").exception, AssertionError)
    assert not (texts / "front").exists()
    assert len(list(texts.glob("front.training-*.pt"))) == 1
    monkeypatch.setattr("wemoe.suites.Suite.measure", measured)
    steps = []
    monkeypatch.setattr("wemoe.pareto.training._direction", lambda *_args: steps.append(1))
    said = succeed("pareto", file, "--output", texts / "front", "--resume")
    assert not steps  # all of them were done
    assert "3 steps; training took " in said
    assert not list(texts.glob("front.training-*"))
    first, again = (files_in(path / "front") for path in (folder, texts))
    assert first["front.csv"] == again["front.csv"]


def test_only_training_of_the_same_configuration_goes_on(texts):
    file = write(texts, pareto={"points": 2, "baselines": []})
    kept = kept_training(texts / "front", read_config(file))
    kept.write_text("damaged")
    assert refusal("pareto", file, "--output", texts / "front", "--resume")[0].startswith("checkpoint ")
    succeed("pareto", file, "--output", texts / "front", "--resume", "--steps", "2")
    assert kept.read_text() == "damaged"  # another's, who trains longer
    succeed("pareto", file, "--output", texts / "front")  # begins anew
    assert not kept.exists()
    other = write(texts, "other", parameters=PARAMETERS | {"init_lambda": 0.5})
    measured = write(texts, "measured", pareto={"points": 5})
    assert kept_training(texts / "front", read_config(other)) != kept
    assert kept_training(texts / "front", read_config(measured)) == kept  # which is only measured otherwise


def test_a_front_that_cannot_be_written_leaves_an_earlier_one_whole(texts, monkeypatch):
    file = write(texts, pareto={"points": 2, "baselines": []})
    succeed("pareto", file, "--output", texts / "front")
    before = files_in(texts / "front")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wemoe.pareto.folders.write_routed", full)
        assert "No space left" in refusal("pareto", file, "--output", texts / "front", "--seed", "2")[0]
    assert files_in(texts / "front") == before

    card = texts / "front" / "model" / "README.md"
    card.write_text(card.read_text() + "\nEdited.\n")
    succeed("pareto", file, "--output", texts / "front", "--seed", "2", "--resume")  # from the training that was kept
    after = files_in(texts / "front")
    assert after.keys() == before.keys()
    assert after["front.json"] != before["front.json"]
    assert after["model/README.md"].endswith(b"\nEdited.\n")


# --- the model of a preference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", ["0.7,0.3", "animals=0.3, colours=0.7"])
def test_unload_writes_the_plain_model_of_a_preference(made, tmp_path, preference):
    folder, file, _ = made
    succeed("unload", folder / "front" / "model", "--preference", preference, "--output", tmp_path / "plain")
    found, info = AutoModel.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    routed = wemoe.from_pretrained(folder / "front" / "model", progress=False)
    expected = wemoe.merge_and_unload(routed, [0.7, 0.3]).state_dict()
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in expected.items())
    assert set(wemoe.load_heads(tmp_path / "plain")) == {"colours", "animals"}
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "| **the preference** | 0.7000 | 0.3000 |" in card
    assert "accuracy" in succeed("evaluate", tmp_path / "plain", "--config", file)


def test_a_model_keeps_the_preference_that_it_was_saved_with(made, tmp_path):
    folder, file, _ = made
    routed = folder / "front" / "model"
    succeed("unload", routed, "--output", tmp_path / "plain")
    own, *_ = read_front_json(folder / "front" / "front.json")
    equal = next(point for point in own.points if point.preference == (0.5, 0.5))  # a new model's preference
    for model in (routed, tmp_path / "plain"):
        results = json.loads(succeed("evaluate", model, "--config", file, "--json"))
        assert results["accuracy"] == equal.accuracies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preference", "0.7,0.7"], "preference must sum to 1"),
        (["--preference", "1"], "preference must be [T] or [B, T] with T = 2"),
        (["--preference", "colours=1"], "preference must have a number for each of the tasks ['colours', 'animals']"),
        (["--preference", "colours=0.5,colours=0.5"], "--preference must name a task once; found "),
        (["--preference", "a,b"], "--preference must be like 0.7,0.3 or movies=0.7,icd=0.3; found 'a,b'"),
        (["--preference", "colours=a"], "--preference must be like 0.7,0.3 or movies=0.7,icd=0.3; found 'colours=a'"),
        (["--routing-weights", "0.3,0.3"], "routing_weights belong to routers that read their input; "),
    ],
)
def test_unload_refuses_what_is_no_preference(made, tmp_path, options, message):
    folder, _, _ = made
    (line,) = refusal("unload", folder / "front" / "model", "--output", tmp_path / "plain", *options)
    assert line.startswith(message)
    assert not (tmp_path / "plain").exists()


def test_a_preference_is_of_a_model_that_reads_one(texts):
    file = write(texts, merge_method="wemoe", parameters={"steps": 1, "router_hidden_layers": 0}, pareto=None)
    succeed("merge", file, "--output", texts / "routed")
    (line,) = refusal("unload", texts / "routed", "--output", texts / "plain", "--preference", "0.5,0.5")
    assert line == "preference belongs to a model of method pwemoe; found one of method wemoe"
