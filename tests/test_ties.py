"""TIES by hand: what is trimmed, which sign is elected, what is merged."""

import pytest
import torch

import wemoe
from points import Row
from wemoe.merging.rules import open_sources
from wemoe.merging.ties import elected_task_vectors

ZERO = Row([0.0] * 5)
#          kept   kept  kept  trimmed trimmed, at density 0.6
EXPERTS = [
    Row([4.0, -6.0, 3.0, 1.0, 0.0]),
    Row([2.0, 5.0, 5.0, 0.5, -1.0]),
    Row([-3.0, 3.0, 9.0, -1.0, 2.0]),
]


def test_trim_elect_and_mean_by_hand():
    # sums (3, 2, 17, 0, 0): signs +, +, +; the mean is over those that agree
    merged = wemoe.ties(ZERO, EXPERTS, density=0.6)
    assert merged.row.tolist() == [3.0, 4.0, pytest.approx(17 / 3), 0.0, 0.0]


def test_the_sum_and_the_scaling_of_published_code():
    merged = wemoe.ties(ZERO, EXPERTS, density=0.6, scaling=0.5, merge_func="sum")
    assert merged.row.tolist() == [3.0, 4.0, 8.5, 0.0, 0.0]


def test_task_vectors_are_merged_and_added_to_the_base():
    base = Row([1.0, 1.0])
    merged = wemoe.ties(base, [Row([3.0, 1.5]), Row([5.0, 1.0])], density=0.5)
    assert merged.row.tolist() == [4.0, 1.0]  # tau = (2, 0.5) and (4, 0); the largest half is (2) and (4)


def elected(*experts, density=1.0):
    with open_sources(Row([0.0] * len(experts[0])), [Row(values) for values in experts]) as sources:
        return [tau.tolist() for tau in elected_task_vectors(sources, density)("row")]


def test_each_task_vector_keeps_what_agrees_with_the_elected_sign():
    assert elected([4.0, -6.0, 3.0, 1.0], [2.0, 5.0, -5.0, 0.5], density=0.75) == [[4, -6, 0, 0], [2, 0, -5, 0]]


def test_entries_that_cancel_take_the_sign_of_the_majority():
    assert elected([1.0, -2.0, -3.0], [-1.0, -1.0, 1.0]) == [[0.0, -2.0, -3.0], [-1.0, -1.0, 0.0]]


def test_without_a_majority_what_cancels_is_zero():
    assert elected([1.0], [-1.0]) == [[0.0], [0.0]]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_exactly_the_counted_entries_are_kept(density):
    base, expert = Row([0.0] * 10), Row(torch.randn(10).tolist())
    assert int((wemoe.ties(base, [expert], density).row != 0).sum()) == int(10 * density)


def test_floating_point_buffers_are_merged_but_not_trimmed():
    base = Row([0.0, 0.0], buffer=[1.0])
    experts = {"x": Row([4.0, 1.0], buffer=[900.0]), "y": Row([6.0, 2.0], buffer=[1.5])}
    with open_sources(base, experts) as sources:
        assert [tau.tolist() for tau in elected_task_vectors(sources, 0.5)("running")] == [[899.0], [0.5]]
    merged = wemoe.ties(base, experts, density=0.5)
    assert merged.row.tolist() == [5.0, 0.0]
    assert merged.running.tolist() == [1.0 + (899.0 + 0.5) / 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, r"density must be in \(0, 1\]; found 0"),
        ({"density": 20}, r"density must be in \(0, 1\]; found 20"),
        ({"scaling": torch.inf}, "scaling must be a finite number; found inf"),
        ({"merge_func": "max"}, "merge_func must be 'mean' or 'sum'; found 'max'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        wemoe.ties(ZERO, EXPERTS, **options)
