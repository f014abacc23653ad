"""Sweeping: every point of a grid once, the best kept, ties to the first, nothing else kept alive."""

import weakref

import pytest

import wemoe
from points import Point


def make(a, b):
    return Point(a, b)


def distance_to(a, b):
    return lambda model: -((model.a.item() - a) ** 2) - (model.b.item() - b) ** 2


def test_every_point_is_tried_in_order_and_the_best_is_kept():
    result = wemoe.sweep(make, {"a": [0.0, 1.0], "b": (2, 3, 4)}, distance_to(1, 3), progress=False)
    assert [(point["a"], point["b"]) for point, _ in result.scores] == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert [score for _, score in result.scores] == [-2.0, -1.0, -2.0, -1.0, 0.0, -1.0]
    assert result.best == {"a": 1.0, "b": 3}
    assert result.model.values()[:2] == [1.0, 3.0]


def test_of_equal_scores_the_first_is_the_best():
    made = []

    def keep(a):
        made.append(Point(a, 0.0))
        return made[-1]

    result = wemoe.sweep(keep, {"a": [3.0, 1.0, 2.0]}, lambda model: 7.0, progress=False)
    assert result.best == {"a": 3.0}
    assert result.model is made[0]


def test_an_option_may_have_a_name_that_python_reserves():
    result = wemoe.sweep(lambda **options: options["lambda"], {"lambda": [0.1, 0.3]}, lambda x: x, progress=False)
    assert (result.best, result.model) == ({"lambda": 0.3}, 0.3)


def test_a_method_of_merging_is_swept():
    base, experts = Point(0, 0), [Point(1, 0), Point(0, 2)]

    def merged(scaling):
        return wemoe.task_arithmetic(base, experts, scaling=scaling)

    result = wemoe.sweep(merged, {"scaling": [0.0, 0.5, 1.0]}, distance_to(0.5, 1.0), progress=False)
    assert result.best == {"scaling": 0.5}
    assert result.model.values() == [0.5, 1.0, 0]


def test_no_more_than_the_best_and_the_one_that_is_tried_are_alive():
    alive = weakref.WeakSet()
    most = []

    def tracked(a):
        most.append(len(alive))  # before the next one exists
        model = Point(a, 0.0)
        alive.add(model)
        return model

    for values in ([3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]):  # the best comes first, the best comes last
        result = wemoe.sweep(tracked, {"a": values}, lambda model: model.a.item(), progress=False)
        assert len(alive) == 1
        assert result.model.a.item() == 3.0
        del result
    assert most == [0, 1, 1, 1] * 2


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ([0.1], TypeError, "grid must map names of options to the values to try; found list"),
        ({}, ValueError, "grid must hold at least one option; found none"),
        ({"a": []}, ValueError, r"grid\['a'\] must hold at least one number, and finite ones; found \[\]"),
        ({"a": [0.1, float("inf")]}, ValueError, r"grid\['a'\] must hold .* finite ones; found \[0.1, inf\]"),
        ({"a": "0.1,0.2"}, TypeError, r"grid\['a'\] must be a list of numbers; found '0.1,0.2'"),
        ({"a": 0.1}, TypeError, r"grid\['a'\] must be a list of numbers; found 0.1"),
        ({"a": [True]}, TypeError, r"grid\['a'\] must be a list of numbers; found \[True\]"),
    ],
)
def test_a_grid_that_is_none_is_refused_before_anything_is_made(grid, error, message):
    def unwanted(**options):
        raise AssertionError(options)

    with pytest.raises(error, match=message):
        wemoe.sweep(unwanted, grid, distance_to(0, 0), progress=False)


def test_a_score_that_is_no_number_is_refused_with_its_point():
    with pytest.raises(ValueError, match=r"score must give a number .* found NaN at \{'a': 2.0\}"):
        wemoe.sweep(lambda a: a, {"a": [1.0, 2.0]}, lambda a: a if a < 2 else float("nan"), progress=False)
