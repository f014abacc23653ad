"""Unseen tasks: what models are made of, what serves the tasks that took no part, and which pairs there are."""

import json
from itertools import combinations

import pytest
import torch
from PIL import Image

import wemoe
from tiny_images import tiny_image_suite, with_parts
from tiny_suite import tiny_suite
from wemoe.comparison import CompareSettings
from wemoe.comparison.making import Workshop
from wemoe.comparison.running import build
from wemoe.data.batches import Task
from wemoe.expert_answers import ExpertAnswers
from wemoe.off_distribution import generalisation, pairs_of, unseen
from wemoe.suites import Suite

PAIRS = (("hues",), ("widths",))
SETTINGS = CompareSettings(steps=3, methods={"task_arithmetic": {}, "wemoe_match": {}})
CHEAP = CompareSettings(methods={"average": {}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    return folder, unseen(tiny_image_suite(), SETTINGS, folder, pairs=PAIRS)


def test_what_is_written_tells_seen_and_unseen_tasks_apart(finished):
    folder, results = finished
    assert json.loads((folder / "unseen.json").read_text()) == results
    assert {path.name for path in folder.iterdir()} == {"unseen.json", "unseen.png"}
    with Image.open(folder / "unseen.png") as image:
        image.verify()
    assert results["tasks"] == ["hues", "bars", "widths"]
    assert (results["seed"], results["steps"]) == (0, 3)
    assert [pair["unseen"] for pair in results["pairs"]] == [["hues"], ["widths"]]
    for pair, seen in zip(results["pairs"], (["bars", "widths"], ["hues", "bars"]), strict=True):
        assert list(pair["rows"]) == ["pretrained", "individual", "task_arithmetic", "wemoe_match"]
        for row in pair["rows"].values():
            assert list(row["seen"]) == seen
            assert list(row["unseen"]) == pair["unseen"]
            assert row["seen_mean"] == pytest.approx(sum(row["seen"].values()) / 2)
            assert row["unseen_mean"] == pytest.approx(sum(row["unseen"].values()))
            assert {task: sum(counts) for task, counts in row["predictions"].items()} == dict.fromkeys(
                ["hues", "bars", "widths"], 48
            )
    for row, means in results["mean"].items():
        for kind in ("seen", "unseen"):
            values = [pair["rows"][row][f"{kind}_mean"] for pair in results["pairs"]]
            assert means[kind] == pytest.approx(sum(values) / 2)


def scores_of(row):
    return row["seen"] | row["unseen"]


def test_models_are_made_of_the_seen_tasks_alone(finished):
    suite = tiny_image_suite()
    seen = {task: suite.experts[task] for task in ("bars", "widths")}
    rows = finished[1]["pairs"][0]["rows"]
    shop = Workshop(suite.only(seen), 0, ExpertAnswers(suite.only(seen)))
    routed = build(SETTINGS.rows()["wemoe_match"], shop).made.models["bars"]
    assert scores_of(rows["wemoe_match"]) == suite.score(routed)
    scaling = build(SETTINGS.rows()["task_arithmetic"], shop).options["scaling"]
    assert scores_of(rows["task_arithmetic"]) == suite.score(wemoe.task_arithmetic(suite.base, seen, scaling=scaling))
    assert scores_of(rows["task_arithmetic"]) != suite.score(
        wemoe.task_arithmetic(suite.base, suite.experts, scaling=scaling)
    )


def test_the_experts_of_unseen_tasks_are_a_ceiling_and_the_base_serves_all(finished):
    suite = tiny_image_suite()
    own = {task: suite.score(expert, [task])[task] for task, expert in suite.experts.items()}
    for pair in finished[1]["pairs"]:
        assert scores_of(pair["rows"]["individual"]) == own
        assert scores_of(pair["rows"]["pretrained"]) == suite.score(suite.base)
    assert own != suite.score(suite.base)


def with_names(names):
    """A suite of tasks of these names without data."""
    return Suite(tiny_suite().base, {}, {}, dict.fromkeys(names, Task(2)))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (("mnist", "fashion", "pendigits", "optdigits", "landsat", "radical", "emoji", "texture"), 6),
        (("movies", "amazon", "supersense", "hypernym", "icd", "pos"), 4),
    ],
)
def test_the_pairs_of_a_built_in_suite_hold_every_task(names, count):
    pairs = pairs_of(with_names(names))
    assert len(set(map(frozenset, pairs))) == count
    assert sorted(task for pair in pairs[: len(names) // 2] for task in pair) == sorted(names)  # once each, so far
    assert all(len(pair) == 2 and set(pair) < set(names) for pair in pairs)


def test_of_other_suites_all_pairs_are_left_out():
    assert pairs_of(with_names("abcd")) == list(combinations("abcd", 2))
    assert pairs_of(with_names(["mnist", "emoji", "texture"])) == list(combinations(["mnist", "emoji", "texture"], 2))


def test_texts_have_unseen_tasks_too(tmp_path):
    """Two tiny text tasks under four names: all six pairs are left out."""
    suite = tiny_suite()
    twice = [*suite.tasks.items(), *((f"more {name}", task) for name, task in suite.tasks.items())]
    original = [name.removeprefix("more ") for name, _ in twice]
    names = [name for name, _ in twice]
    experts, heads = (dict(zip(names, map(part.get, original), strict=True)) for part in (suite.experts, suite.heads))
    results = unseen(Suite(suite.base, experts, heads, dict(twice)), CHEAP, tmp_path)
    assert len(results["pairs"]) == 6
    assert list(results["mean"]) == ["pretrained", "individual", "average"]


def test_an_interrupt_keeps_the_pairs_that_are_done_and_a_later_run_goes_on(tmp_path, monkeypatch):
    def interrupted(row, shop):
        if "widths" not in shop.suite.tasks:
            raise KeyboardInterrupt
        return build(row, shop)

    with monkeypatch.context() as patch:
        patch.setattr(generalisation, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unseen(tiny_image_suite(), CHEAP, tmp_path, pairs=PAIRS)
    written = json.loads((tmp_path / "unseen.json").read_text())["pairs"]
    assert [pair["unseen"] for pair in written] == [["hues"]]
    results = unseen(tiny_image_suite(), CHEAP, tmp_path, pairs=PAIRS, resume=True)
    assert results["pairs"][0] == written[0]
    assert [pair["unseen"] for pair in results["pairs"]] == [["hues"], ["widths"]]
    monkeypatch.setattr(generalisation, "build", lambda *_: pytest.fail("made anew"))
    assert unseen(tiny_image_suite(), CHEAP, tmp_path, pairs=PAIRS, resume=True) == results
    for other in (CompareSettings(seed=1, methods={"average": {}}), CompareSettings(methods={"ties": {}})):
        with pytest.raises(pytest.fail.Exception, match="made anew"):
            unseen(tiny_image_suite(), other, tmp_path, pairs=PAIRS, resume=True)


@pytest.mark.parametrize("pair", [("hues", "bars"), ("hue",), ("hues", "hues"), ()])
def test_a_pair_names_distinct_tasks_and_leaves_two(tmp_path, pair):
    with pytest.raises(ValueError, match=r"pairs must name distinct tasks of the suite, .* and leave two or more"):
        unseen(tiny_image_suite(), CHEAP, tmp_path / "new", pairs=[pair])
    assert not (tmp_path / "new").exists()


def test_missing_data_are_told_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="row 'wemoe_match' needs the unlabeled part of every task"):
        unseen(with_parts(tiny_image_suite(), unlabeled=None), SETTINGS, tmp_path / "new", pairs=PAIRS)
    assert not (tmp_path / "new").exists()


def test_torch_is_where_it_was(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    methods = {"wemoe_entropy": {"steps": 1}}
    unseen(tiny_image_suite(), CompareSettings(methods=methods), tmp_path, pairs=[("bars",)])
    assert torch.equal(torch.rand(2), expected)
