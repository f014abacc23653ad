"""Fronts: every preference merged once and measured as its merged model is; JSON and CSV that give it all back."""

import csv
import json
from collections import Counter

import pytest
import torch
from torch import nn

import wemoe
from models import experts_of, tiny_bert
from tiny_suite import tiny_suite
from wemoe.pareto import Front, Measured, Point, evaluate, read_front_json, write_front_csv, write_front_json
from wemoe.preference_layers import PreferenceLayer

TASKS = ("colours", "animals")
GRID = torch.tensor([[0.0, 1.0], [0.3, 0.7], [1.0, 0.0]])


@pytest.fixture
def model():
    """A routed model of the tiny suite, whose routers tell preferences apart."""
    suite = tiny_suite()
    made = wemoe.upcycle(suite.base, suite.experts, method="pwemoe", progress=False)
    for parameter in made.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    return made


def front(label="pwemoe", preferences=((0.1, 0.9), (0.75, 0.25))):
    points = [
        Point(preference, {"colours": 0.5 + i, "animals": 0.25}, {"animals": 0.75, "colours": 1.0})
        for i, preference in enumerate(preferences)
    ]
    return Front(label, TASKS, tuple(points))


# --- measured -------------------------------------------------------------------------------------------------------


def test_a_front_is_what_is_measured_of_the_merged_model_at_each_preference(model):
    suite = tiny_suite()
    found = evaluate(model, suite.measure, GRID, label="ours", progress=False)
    assert (found.label, found.tasks) == ("ours", TASKS)
    assert [point.preference for point in found.points] == [(0.0, 1.0), (0.3, 0.7), (1.0, 0.0)]
    for preference, point in zip(GRID, found.points, strict=True):
        measured = suite.measure(wemoe.merge_and_unload(model, preference))
        assert point.losses == pytest.approx(measured.losses, rel=1e-5)  # the same sums in fp32
        assert point.accuracies == measured.accuracies
    assert len({tuple(point.losses.values()) for point in found.points}) == 3  # or the test could not fail


def test_each_preference_is_merged_once(model, monkeypatch):
    merges = []
    merged = PreferenceLayer.merged
    monkeypatch.setattr(PreferenceLayer, "merged", lambda *args: merges.append(id(args[0])) or merged(*args))
    suite = tiny_suite()
    forwards = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    evaluate(model, suite.measure, GRID, progress=False)
    layers = [id(module) for module in model.modules() if isinstance(module, PreferenceLayer)]
    assert len(forwards) == 3 * 2 * 2  # a batch of each part and task
    assert Counter(merges) == dict.fromkeys(layers, 3)


def test_the_models_mode_and_preference_are_restored(model):
    before = torch.tensor([0.6, 0.4])
    wemoe.set_preference(model, before)
    model.train()
    seen = []

    def measure(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        seen.append(wemoe.get_preference(model))
        if len(seen) == 5:
            raise KeyError("a user's mistake")
        return Measured(dict.fromkeys(TASKS, 1.0), dict.fromkeys(TASKS, 0.5))

    evaluate(model, measure, GRID, progress=False)
    assert torch.equal(torch.stack(seen), GRID)
    with pytest.raises(KeyError):
        evaluate(model, measure, GRID, progress=False)
    assert torch.equal(wemoe.get_preference(model), before)
    assert model.training


def test_what_cannot_be_measured_is_refused_before_any_work(model):
    def fail(_):
        raise AssertionError("work began")

    with pytest.raises(ValueError, match=r"preferences must be \[K, T\], one in each row; found shape \(2,\)"):
        evaluate(model, fail, GRID[1], progress=False)
    with pytest.raises(ValueError, match="preference must sum to 1"):
        evaluate(model, fail, torch.cat([GRID, GRID[:1] + 1]), progress=False)
    for other in (tiny_bert(), wemoe.upcycle(tiny_bert(), experts_of(tiny_bert(), 2), progress=False)):
        with pytest.raises(TypeError, match="must be made by"):
            evaluate(other, fail, GRID, progress=False)
    with pytest.raises(ValueError, match=r"losses of a point of front 'pwemoe' must be of its tasks, .* found \['x'\]"):
        evaluate(model, lambda _: Measured({"x": 1.0}, {"x": 1.0}), GRID, progress=False)


# --- as tables, JSON and CSV ----------------------------------------------------------------------------------------


def test_a_front_gives_tables_in_the_order_of_its_tasks():
    found = front()
    assert torch.equal(found.preferences, torch.tensor([[0.1, 0.9], [0.75, 0.25]], dtype=torch.float64))
    assert torch.equal(found.losses, torch.tensor([[0.5, 0.25], [1.5, 0.25]], dtype=torch.float64))
    assert torch.equal(found.accuracies, torch.tensor([[1.0, 0.75], [1.0, 0.75]], dtype=torch.float64))
    assert Front("none", TASKS, ()).losses.shape == (0, 2)
    with pytest.raises(ValueError, match="every point of front 'individual' must have a preference; found 1 of 2"):
        _ = front("individual", [None, (0.5, 0.5)]).preferences


def test_json_gives_the_fronts_back(tmp_path):
    fronts = [front(), front("individual", [None, None])]
    write_front_json(tmp_path / "front.json", fronts, {"hypervolume": 0.5})
    assert read_front_json(tmp_path / "front.json") == fronts
    content = json.loads((tmp_path / "front.json").read_text())
    assert content["summary"] == {"hypervolume": 0.5}
    assert content["fronts"][0]["points"][0]["preference"] == [0.1, 0.9]
    assert Front.from_dict(front().as_dict()) == front()


def test_json_holds_finite_numbers_only(tmp_path):
    lost = Front("lost", TASKS, (Point(None, dict.fromkeys(TASKS, float("nan")), dict.fromkeys(TASKS, 0.0)),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_front_json(tmp_path / "front.json", [lost])
    assert not (tmp_path / "front.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fronts": [{"label": "a", "tasks": ["x"], "points": [{}]}]}'])
def test_what_is_no_file_of_fronts_is_refused(tmp_path, content):
    (tmp_path / "front.json").write_text(content)
    with pytest.raises(ValueError, match=r"front.json' must be a file of fronts; found"):
        read_front_json(tmp_path / "front.json")


def test_csv_has_a_line_for_each_point(tmp_path):
    write_front_csv(tmp_path / "front.csv", [front(), front("individual", [None])])
    with open(tmp_path / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [f"{kind}:{task}" for kind in ("preference", "loss", "accuracy") for task in TASKS]
    assert [list(row) for row in rows] == [["front", *columns]] * 3
    assert [list(row.values()) for row in rows] == [
        ["pwemoe", "0.1", "0.9", "0.5", "0.25", "1.0", "0.75"],
        ["pwemoe", "0.75", "0.25", "1.5", "0.25", "1.0", "0.75"],
        ["individual", "", "", "0.5", "0.25", "1.0", "0.75"],
    ]


def test_a_table_is_of_the_same_tasks(tmp_path):
    other = Front("other", ("x",), ())
    for fronts in ([], [front(), other]):
        with pytest.raises(ValueError, match="fronts must be of the same tasks; found"):
            write_front_csv(tmp_path / "front.csv", fronts)


def test_a_point_has_a_number_for_each_task():
    numbers = dict.fromkeys(TASKS, 1.0)
    with pytest.raises(ValueError, match="accuracies of a point of front 'a' must be of its tasks"):
        Front("a", TASKS, (Point(None, numbers, {"colours": 1.0}),))
    with pytest.raises(ValueError, match="must hold one number for each of 2 tasks; found 3"):
        Front("a", TASKS, (Point((0.2, 0.3, 0.5), numbers, numbers),))
