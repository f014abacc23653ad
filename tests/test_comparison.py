"""A comparison on a tiny random BERT and two tiny tasks: every row, what it may read, and what is written."""

import json
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from results_folders import comparison
from tiny_suite import tiny_suite
from wemoe.adaptation import anchor_to_start, hold_class_shares
from wemoe.comparison import ROWS, CompareSettings, compare, running
from wemoe.comparison.choosing import check_data
from wemoe.comparison.making import Workshop
from wemoe.comparison.pictures import draw_pictures
from wemoe.comparison.running import build, score
from wemoe.data.batches import Labelled, read_all
from wemoe.expert_answers import ExpertAnswers
from wemoe.geometry import task_vector_geometry
from wemoe.merging import task_arithmetic
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite

REPRESENTATIVES = ["fisher", "regmean", "task_arithmetic", "dare_ties", "adamerging_pp_infomax", "wemoe_match"]


def run(output, suite=None, resume=False, steps=2, **settings):
    return compare(
        suite or tiny_suite(),
        CompareSettings(steps=steps, **settings),
        output,
        watch=Stopwatch(lambda line: None),
        origin={"suite": "tiny"},
        resume=resume,
    )


def only(*names):
    return {name: {} for name in names}


def with_tasks(**changes):
    """The tiny suite, whose tasks have other parts."""
    suite = tiny_suite()
    tasks = {name: replace(task, **changes) for name, task in suite.tasks.items()}
    return Suite(suite.base, suite.experts, suite.heads, tasks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return folder, run(folder)


def test_every_row_runs_and_is_written_down(finished):
    folder, results = finished
    assert list(results["rows"]) == list(ROWS)
    assert json.loads((folder / "comparison.json").read_text()) == results
    routed = [name for name, row in results["rows"].items() if row.get("routing") and row["objective"] == "match"]
    pictures = {f"{picture}_{name}.png" for picture in ("routing", "own_choices") for name in routed}
    assert {path.name for path in folder.iterdir()} == {
        *("comparison.json", "comparison.md", "comparison.png", "geometry.png", "report.html"),
        *pictures,
    }
    with Image.open(folder / "comparison.png") as image:
        image.verify()


def test_a_row_tells_all_that_the_table_shows(finished):
    _, results = finished
    for name, row in results["rows"].items():
        assert list(row["accuracy"]) == results["tasks"] == ["colours", "animals"]
        assert row["average"] == pytest.approx(sum(row["accuracy"].values()) / 2)
        assert row["seconds"]["making"] >= 0
        assert row["inference_cost"] > 0
        assert (row["trained_parameters"] > 0) == (row["kind"] == "learned") == (row["adaptation"] is not None), name
        assert bool(row["search"]) == any(isinstance(value, list) for value in row["settings"].values())


def test_a_row_tells_what_it_predicts_and_a_routed_one_how_it_routes(finished):
    _, results = finished
    assert results["classes"] == {"colours": 2, "animals": 2}
    for name, row in results["rows"].items():
        assert {task: len(counts) for task, counts in row["predictions"].items()} == results["classes"]
        assert all(sum(counts) == 24 for counts in row["predictions"].values())
        if "wemoe" not in name:
            assert row["modes"] is row["routing"] is None
            continue
        assert row["modes"]["per_sample"]["single"] == row["accuracy"]
        assert row["modes"]["samples"] == 48
        assert row["modes"]["changed"]["per_sample"] == 0
        assert row["routing"]["samples"] == {"colours": 24, "animals": 24}
        for layers in row["routing"]["mean"].values():
            assert [list(weights) for weights in layers.values()] == 2 * [["colours", "animals"]]


def test_the_normalised_average_divides_each_task_by_its_expert(finished):
    _, results = finished
    colours, animals = results["rows"]["individual"]["accuracy"].values()
    for row in results["rows"].values():
        expected = (row["accuracy"]["colours"] / colours + row["accuracy"]["animals"] / animals) / 2
        assert row["normalised"] == pytest.approx(expected)
    assert running.normalised({"a": 0.4, "b": 0.9}, {"a": 0.8, "b": 0.9}) == pytest.approx(0.75)
    assert running.normalised({"a": 0.4}, {"a": 0.0}) is None


def test_parameters_are_those_of_all_models_that_are_needed(finished):
    rows = finished[1]["rows"]
    base = sum(parameter.numel() for parameter in tiny_suite().base.parameters())
    tensors = sum(1 for _ in tiny_suite().base.parameters())
    assert rows["pretrained"]["parameters"] == rows["ties"]["parameters"] == base
    assert rows["adamerging_entropy"]["parameters"] == base
    assert rows["individual"]["parameters"] == 2 * base
    mlps = 2 * (2 * 16 * 24 + 16 + 24)  # two layers of two linear maps
    assert (
        rows["wemoe_depth0_match"]["parameters"] == base + 2 * mlps + 2 * 2
    )  # task vectors; a constant a task and MLP
    assert rows["wemoe_depth0_match"]["trained_parameters"] == 2 * 2
    assert rows["adamerging_task_match"]["trained_parameters"] == 2
    assert rows["adamerging_match"]["trained_parameters"] == 2 * tensors


def test_a_search_takes_the_best_on_validation_data(finished):
    for row in finished[1]["rows"].values():
        for option, tried in row["settings"].items():
            if isinstance(tried, list):
                assert [point[option] for point in row["search"]] == tried
                best = max(row["search"], key=lambda point: point["validation"])
                assert row["options"][option] == best[option]


def test_one_seed_gives_equal_results(finished, tmp_path):
    again = run(tmp_path, methods=only(*REPRESENTATIVES))
    for name in REPRESENTATIVES:
        for key in ("accuracy", "search", "options", "adaptation"):
            assert again["rows"][name][key] == finished[1]["rows"][name][key]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_nothing_is_made_from_labels_of_training_or_from_test_data(name):
    row = CompareSettings(steps=1).rows()[name]
    suite = with_tasks(train=None, test=None)
    shop = Workshop(suite, 0, ExpertAnswers(suite))
    assert score(suite, build(row, shop).made, "validation").keys() == {"colours", "animals"}


def of_one_class():
    """The tiny suite, whose training samples are all of the first class."""
    suite = tiny_suite()
    tasks = {
        name: replace(task, train=Labelled(task.train.samples, torch.zeros_like(task.train.labels)))
        for name, task in suite.tasks.items()
    }
    return Suite(suite.base, suite.experts, suite.heads, tasks)


def test_class_shares_hold_the_experts_answers_to_the_classes_of_the_training_data():
    suite = of_one_class()
    answers = ExpertAnswers(suite)
    everything = SimpleNamespace(rows=slice(None))
    for name, task in suite.tasks.items():
        found, held = (answers.by_task(class_shares=bound)[name](everything) for bound in (None, 1.5))
        counts = [len(task.train.labels) + 1, *[1] * (task.num_labels - 1)]  # no class is impossible
        assert torch.equal(held, hold_class_shares(found, torch.tensor(counts), 1.5))
        assert not torch.equal(held, found)


def test_an_anchor_mixes_in_the_answers_of_task_arithmetic_before_classes_are_held():
    suite = of_one_class()
    merged = task_arithmetic(suite.base, suite.experts, scaling=0.4).eval()
    answers = ExpertAnswers(suite)
    everything = SimpleNamespace(rows=slice(None))
    for name, task in suite.tasks.items():
        with torch.no_grad():
            start = read_all(task.unlabeled, 64, partial(suite.predict, merged, task=name))
        anchored = anchor_to_start(answers.by_task()[name](everything), start, 0.25)
        found = answers.by_task(anchor=0.25, init_lambda=0.4)[name](everything)
        torch.testing.assert_close(found, anchored)  # batches of another size round differently
        both = answers.by_task(class_shares=1.5, anchor=0.25, init_lambda=0.4)[name](everything)
        counts = torch.tensor([len(task.train.labels) + 1, *[1] * (task.num_labels - 1)])
        torch.testing.assert_close(both, hold_class_shares(anchored, counts, 1.5))


def first_loss(options):
    row = CompareSettings(steps=1, methods={"wemoe_match": options}).rows()["wemoe_match"]
    return build(row, Workshop(of_one_class(), 0, ExpertAnswers(of_one_class()))).made.adaptation.history[0]["loss"]


def test_a_row_learns_from_answers_that_its_options_change():
    as_they_are = first_loss({})
    assert first_loss({"class_shares": 1.5}) > as_they_are  # held to classes that the model does not give
    assert first_loss({"anchor": 0.5}) < as_they_are  # nearer to where the model starts


def test_a_row_with_class_shares_needs_training_data():
    rows = CompareSettings(methods={"wemoe_match": {"class_shares": 1.5}}).rows()
    with pytest.raises(ValueError, match="row 'wemoe_match' needs the train part of every task; missing for"):
        check_data(with_tasks(train=None), rows)


def test_rows_that_search_nothing_need_no_validation_data(tmp_path):
    suite = with_tasks(validation=None)
    results = run(tmp_path, suite, methods={"ties": {"scaling": 0.5}, "wemoe_entropy": {}})
    assert results["rows"]["ties"]["options"] == {"density": 0.2, "merge_func": "mean", "scaling": 0.5}
    with pytest.raises(ValueError, match=r"row 'ties' needs the validation part of every task \(or one value instead"):
        run(tmp_path / "other", suite, methods=only("ties"))
    assert not (tmp_path / "other").exists()


def test_rows_that_read_no_inputs_need_no_unlabeled_data(tmp_path):
    suite = with_tasks(unlabeled=None)
    assert list(run(tmp_path, suite, methods=only("average"))["rows"]) == ["pretrained", "individual", "average"]
    with pytest.raises(ValueError, match="row 'fisher' needs the unlabeled part of every task; missing for"):
        run(tmp_path, suite, methods=only("fisher"))


def test_every_expert_needs_data(tmp_path):
    suite = tiny_suite()
    tasks = {"colours": suite.tasks["colours"]}
    with pytest.raises(ValueError, match=r"tasks must hold the data of every expert; missing: \['animals'\]"):
        run(tmp_path, Suite(suite.base, suite.experts, suite.heads, tasks), methods=only("average"))


def test_options_of_a_row_replace_its_own(tmp_path):
    methods = {"wemoe_match": {"steps": 1, "learning_rate": ["1e-1", 0.2]}, "average": {}}  # YAML reads 1e-1 as text
    row = run(tmp_path, methods=methods)["rows"]["wemoe_match"]
    assert len(row["adaptation"]["loss"]) == 1
    assert [point["learning_rate"] for point in row["search"]] == [0.1, 0.2]


def test_an_interrupt_keeps_the_rows_that_are_done_and_a_later_run_goes_on(tmp_path, monkeypatch):
    def interrupted(shop, **options):
        raise KeyboardInterrupt

    methods = only("average", "ties_sum")
    with monkeypatch.context() as patch:
        patch.setitem(ROWS, "ties_sum", replace(ROWS["ties_sum"], make=interrupted))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, methods=methods)
    written = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert list(written) == ["pretrained", "individual", "average"]
    with monkeypatch.context() as patch:
        patch.setitem(ROWS, "average", replace(ROWS["average"], make=interrupted))
        results = run(tmp_path, methods=methods, resume=True)
    assert results["rows"]["average"] == written["average"]
    assert "ties_sum" in results["rows"]


def test_rows_of_other_settings_are_not_kept(tmp_path, monkeypatch):
    run(tmp_path, methods=only("wemoe_depth0_entropy"))
    again = run(tmp_path, methods=only("wemoe_depth0_entropy"), steps=1, resume=True)
    assert len(again["rows"]["wemoe_depth0_entropy"]["adaptation"]["loss"]) == 1
    monkeypatch.setattr(running, "_record", lambda row, shop: pytest.fail("the seed was another"))
    with pytest.raises(pytest.fail.Exception, match="the seed was another"):
        run(tmp_path, methods=only("wemoe_depth0_entropy"), steps=1, seed=1, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"methods": {"wemoe_mach": {}}}, "methods: no row is called 'wemoe_mach'; did you mean 'wemoe_match'?"),
        ({"methods": {"ties": {"densty": 0.1}}}, "methods.ties: no option is called 'densty'; did you mean 'density'?"),
        ({"methods": {"ties": {"density": "low"}}}, "methods.ties.density must be a number, or a list"),
        ({"methods": {"ties": {"scaling": []}}}, "methods.ties.scaling must be a number, or a list"),
        ({"methods": {"ties": {"merge_func": 1}}}, "methods.ties.merge_func must be text, 'mean' say; found 1"),
        (
            {"methods": {"wemoe_entropy": {"class_shares": 2}}},
            "methods.wemoe_entropy: no option is called 'class_shares'",
        ),
        ({"methods": {"average": {"steps": 3}}}, "methods.average: no option is called 'steps'; none is known here"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        CompareSettings(**settings).rows()


def test_lengths_and_cosines_of_task_vectors_are_told(finished):
    suite = tiny_suite()
    assert finished[1]["geometry"] == task_vector_geometry(suite.base, suite.experts)


def test_routed_rows_with_the_recommended_objective_are_drawn(tmp_path):
    results = comparison(rows=("pretrained", "individual", "ties", "wemoe_match", "wemoe_entropy"), tasks=("a", "b"))
    draw_pictures(results, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("comparison.png", "geometry.png", "routing_wemoe_match.png", "own_choices_wemoe_match.png")
    }
