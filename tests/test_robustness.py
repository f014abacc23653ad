"""Corruptions: what each row is made on and scored on, which tasks count as collapsed, and what is written."""

import json
from dataclasses import replace

import pytest
from PIL import Image

import wemoe
from tiny_images import two_image_tasks, with_parts
from tiny_suite import tiny_suite
from wemoe.comparison import CompareSettings
from wemoe.comparison.making import Workshop
from wemoe.comparison.running import build
from wemoe.expert_answers import ExpertAnswers
from wemoe.off_distribution import DEFAULT_ROWS, corrupted_suite, corruptions, robustness
from wemoe.off_distribution.scoring import chosen_rows

NAMES = ("contrast", "gaussian_noise")
ROWS = {"task_arithmetic": {"scaling": 0.3}, "ties": {"scaling": 0.7}, "adamerging_match": {}, "wemoe_entropy": {}}
SETTINGS = CompareSettings(seed=0, steps=4, methods=ROWS)
CHEAP = CompareSettings(seed=0, steps=1, methods={"task_arithmetic": {"scaling": 0.3}, "wemoe_depth0_entropy": {}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corruptions")
    return folder, corruptions(two_image_tasks(), SETTINGS, folder, names=NAMES, origin={"suite": "tiny"})


def test_what_is_written_holds_every_row_under_every_corruption(finished):
    folder, results = finished
    assert json.loads((folder / "corruptions.json").read_text()) == results
    assert list(results["corruptions"]) == ["clean", *NAMES]
    for record in results["corruptions"].values():
        assert list(record["rows"]) == ["pretrained", "individual", *ROWS]
        for row in record["rows"].values():
            assert list(row["accuracy"]) == results["tasks"] == ["hues", "bars"]
            assert row["average"] == pytest.approx(sum(row["accuracy"].values()) / 2)
            assert {task: len(counts) for task, counts in row["predictions"].items()} == results["classes"]
            assert {task: sum(counts) for task, counts in row["predictions"].items()} == results["samples"]
    assert results["classes"] == {"hues": 3, "bars": 2}
    assert results["samples"] == {"hues": 48, "bars": 48}
    assert results["labels"] == {"hues": [16, 16, 16], "bars": [24, 24]}
    assert (results["severity"], results["threshold"], results["seed"], results["steps"]) == (2, 0.03, 0, 4)
    assert results["library"].startswith("imagecorruptions-imaug ")
    assert {path.name for path in folder.iterdir()} == {
        "corruptions.json",
        "corruptions.png",
        "corruptions_predictions.png",
    }
    for name in ("corruptions.png", "corruptions_predictions.png"):
        with Image.open(folder / name) as image:
            image.verify()


def by_hand(suite, models):
    found = {task: suite.predictions(model, [task])[task] for task, model in models.items()}
    return {task: each.accuracy for task, each in found.items()}, {task: each.counts for task, each in found.items()}


def test_static_rows_are_made_on_clean_data_and_scored_on_corrupted_images(finished):
    suite = two_image_tasks()
    merged = wemoe.task_arithmetic(suite.base, suite.experts, scaling=0.3)
    counts = {}
    for name, record in finished[1]["corruptions"].items():
        under = suite if name == "clean" else corrupted_suite(suite, name)
        for row, models in (("task_arithmetic", dict.fromkeys(suite.tasks, merged)), ("individual", suite.experts)):
            found = record["rows"][row]
            assert (found["accuracy"], found["predictions"]) == by_hand(under, models)
            counts[row, name] = found["predictions"]
    for row in ("task_arithmetic", "individual"):
        assert counts[row, "clean"] != counts[row, "gaussian_noise"]  # or one could be mistaken for the other


@pytest.mark.parametrize("row", ["adamerging_match", "wemoe_entropy"])
def test_learned_rows_adapt_on_the_corrupted_images(finished, row):
    suite = two_image_tasks()
    noisy = corrupted_suite(suite, "gaussian_noise")
    models = {
        name: build(SETTINGS.rows()[row], Workshop(on, 0, ExpertAnswers(on))).made
        for name, on in (("clean", suite), ("noisy", noisy))
    }
    found = finished[1]["corruptions"]["gaussian_noise"]["rows"][row]
    assert (found["accuracy"], found["predictions"]) == by_hand(noisy, models["noisy"].models)
    losses = [[step["loss"] for step in made.adaptation.history] for made in models.values()]
    assert losses[0] != losses[1]  # or one could be mistaken for the other


def test_the_reference_is_the_static_merge_that_is_best_under_the_same_corruption():
    rows = {
        "individual": {"accuracy": {"a": 0.9, "b": 0.9}, "average": 0.9},
        "average": {"accuracy": {"a": 0.6, "b": 0.6}, "average": 0.6},
        "ties": {"accuracy": {"a": 0.8, "b": 0.5}, "average": 0.65},
        "task_arithmetic": {"accuracy": {"a": 0.5, "b": 0.8}, "average": 0.65},  # no better than the one before
        "wemoe_match": {"accuracy": {"a": 0.78, "b": 0.6}, "average": 0.69},
    }
    record = robustness.judged(rows)
    assert record["reference"] == "ties"
    assert {name: row["collapsed"] for name, row in record["rows"].items()} == {
        "individual": [],
        "average": ["a"],
        "ties": [],
        "task_arithmetic": ["a"],
        "wemoe_match": [],
    }
    assert "collapsed" not in rows["average"]


def test_static_rows_are_made_once_and_on_clean_data(tmp_path, monkeypatch):
    suite, made = two_image_tasks(), []

    def watched_build(row, shop):
        made.append((row.label, shop.suite is suite))
        return build(row, shop)

    monkeypatch.setattr(robustness, "build", watched_build)
    methods = {"average": {}, "task_arithmetic": {"scaling": 0.3}, "wemoe_depth0_entropy": {"steps": 1}}
    corruptions(suite, CompareSettings(methods=methods), tmp_path, names=["contrast"])
    static = ["pre-trained", "individual experts", "simple average", "task arithmetic"]
    learned = [("WEMoE, depth 0", True), ("WEMoE, depth 0", False)]
    assert sorted(made) == sorted([(label, True) for label in static] + learned)


def test_a_task_has_collapsed_when_it_is_more_than_three_points_below_the_reference():
    reference = {"a": 0.60, "b": 0.60, "c": 0.60, "d": 0.60}
    accuracy = {"a": 0.57, "b": 0.569, "c": 0.1, "d": 0.9}  # 0.60 - 0.57 is above 0.03 in floating point
    assert robustness.collapsed(accuracy, reference) == ["b", "c"]


def test_collapses_are_told_of_each_corruption_and_counted_without_clean_images(finished):
    results = finished[1]
    for record in results["corruptions"].values():
        reference = record["rows"][record["reference"]]
        for row in record["rows"].values():
            below = [task for task, value in row["accuracy"].items() if reference["accuracy"][task] - value > 0.0301]
            assert row["collapsed"] == below  # no two accuracies of 48 samples are 3 points apart
        assert reference["collapsed"] == []
    for row, count in results["collapses"].items():
        assert count == sum(len(results["corruptions"][name]["rows"][row]["collapsed"]) for name in NAMES)
    clean = results["corruptions"]["clean"]["rows"]["pretrained"]["collapsed"]
    assert clean  # or the count could not tell whether these are in it
    assert results["collapses"]["pretrained"] > 0


def test_an_interrupt_keeps_what_is_done_and_a_later_run_goes_on(tmp_path, monkeypatch):
    def interrupted(suite, name, *arguments):
        if name == "pixelate":
            raise KeyboardInterrupt
        return corrupted_suite(suite, name, *arguments)

    options = {"names": ("contrast", "pixelate"), "origin": {"suite": "tiny"}}
    with monkeypatch.context() as patch:
        patch.setattr(robustness, "corrupted_suite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corruptions(two_image_tasks(), CHEAP, tmp_path, **options)
    written = json.loads((tmp_path / "corruptions.json").read_text())["corruptions"]
    assert list(written) == ["clean", "contrast"]
    done = []
    with monkeypatch.context() as patch:
        patch.setattr(robustness, "corrupted_suite", lambda *how: done.append(how[1]) or corrupted_suite(*how))
        results = corruptions(two_image_tasks(), CHEAP, tmp_path, resume=True, **options)
    assert done == ["pixelate"]
    assert {name: results["corruptions"][name] for name in written} == written
    with monkeypatch.context() as patch:
        patch.setattr(robustness, "build", lambda *_: pytest.fail("all was done"))
        assert corruptions(two_image_tasks(), CHEAP, tmp_path, resume=True, **options) == results


@pytest.mark.parametrize(
    "change",
    [{"settings": replace(CHEAP, seed=1)}, {"settings": replace(CHEAP, steps=2)}, {"severity": 3}, {"origin": {}}],
)
def test_what_was_decided_otherwise_is_not_kept(finished, monkeypatch, change):
    folder, _ = finished
    monkeypatch.setattr(robustness, "build", lambda *_: pytest.fail("made anew"))
    options = {"settings": SETTINGS, "names": NAMES, "origin": {"suite": "tiny"}}
    corruptions(two_image_tasks(), output=folder, resume=True, **options)
    with pytest.raises(pytest.fail.Exception, match="made anew"):
        corruptions(two_image_tasks(), output=folder, resume=True, **options | change)


def test_the_rows_by_default_are_a_choice_of_static_and_learned_ones():
    assert tuple(chosen_rows(CompareSettings())) == DEFAULT_ROWS
    assert tuple(chosen_rows(SETTINGS)) == ("pretrained", "individual", *ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["blur"]}, "no corruption is called 'blur'"),
        ({"severity": 6}, "severity must be a whole number from 1 to 5; found 6"),
        ({"settings": CompareSettings(methods={"wemoe_match": {}})}, "methods must name a static merge"),
        ({"settings": CompareSettings(methods={"tie": {}})}, "methods: no row is called 'tie'; did you mean 'ties'"),
        ({"suite": tiny_suite}, "the unlabeled part of task 'colours' must be of them, found Texts"),
        (
            {"suite": lambda: with_parts(two_image_tasks(), unlabeled=None)},
            "row 'adamerging_match' needs the unlabeled part of every task",
        ),
    ],
)
def test_what_is_wrong_is_told_before_any_work(tmp_path, change, message):
    arguments = {"suite": two_image_tasks, "settings": SETTINGS, "output": tmp_path / "new"} | change
    arguments["suite"] = arguments["suite"]()
    with pytest.raises(ValueError, match=message):
        corruptions(**arguments)
    assert not (tmp_path / "new").exists()


def test_without_the_library_nothing_begins(tmp_path, monkeypatch):
    def missing():
        raise ImportError("not installed")

    monkeypatch.setattr(robustness, "library", missing)
    with pytest.raises(ImportError, match="not installed"):
        corruptions(two_image_tasks(), SETTINGS, tmp_path / "new")
    assert not (tmp_path / "new").exists()
