"""Measures of fronts: hypervolumes by hand, domination, distance from a ray, and rank correlations."""

import math

import pytest
import torch

from wemoe.pareto.metrics import controllability, hypervolume, non_dominated, non_uniformity

LOSSES = torch.tensor([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0]])


def test_the_hypervolume_of_losses_is_a_sum_of_rectangles():
    # below (5, 5): 4 wide and 1 high, then 3 x 2 more, then 1 x 1 more
    assert hypervolume(LOSSES, torch.tensor([5.0, 5.0]), maximise=False) == pytest.approx(4 + 6 + 1)


def test_the_hypervolume_of_accuracies_is_above_the_reference():
    found = hypervolume(torch.tensor([[0.8, 0.2], [0.2, 0.8]]), torch.zeros(2), maximise=True)
    assert found == pytest.approx(2 * 0.16 - 0.04)
    found = hypervolume(torch.tensor([[0.8, 0.2], [0.2, 0.8]]), torch.tensor([0.1, 0.1]), maximise=True)
    assert found == pytest.approx(2 * 0.07 - 0.01)


def test_the_hypervolume_of_three_objectives_is_a_sum_of_boxes():
    points = torch.tensor([[1.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    # boxes 2 x 2 x 1 and 1 x 1 x 2 up to (3, 3, 3), which share 1 x 1 x 1
    assert hypervolume(points, torch.full((3,), 3.0), maximise=False) == pytest.approx(4 + 2 - 1)


def test_dominated_points_and_points_beyond_the_reference_add_nothing():
    more = torch.cat([LOSSES, torch.tensor([[3.0, 3.0], [0.0, 6.0], [2.0, 2.0]])])
    reference = torch.tensor([5.0, 5.0])
    assert hypervolume(more, reference, maximise=False) == pytest.approx(hypervolume(LOSSES, reference, maximise=False))
    assert hypervolume(LOSSES, torch.zeros(2), maximise=False) == 0.0


def test_equal_points_do_not_dominate_each_other():
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [2.0, 1.0]])
    assert non_dominated(points, maximise=False).tolist() == [True, True, False, True]
    assert non_dominated(points, maximise=True).tolist() == [False, False, True, True]


def test_losses_on_the_ray_are_uniform():
    assert non_uniformity(torch.tensor([3.0, 1.0]), torch.tensor([0.25, 0.75])) == 0.0
    assert non_uniformity(torch.zeros(2), torch.tensor([0.25, 0.75])) == 0.0


def test_non_uniformity_is_the_divergence_from_equal_shares():
    found = non_uniformity(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5]))
    assert found == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert non_uniformity(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])) == pytest.approx(math.log(2))


def test_an_objective_that_counts_nothing_is_left_out():
    assert non_uniformity(torch.tensor([2.0, 7.0]), torch.tensor([1.0, 0.0])) == 0.0
    found = non_uniformity(torch.tensor([1.0, 7.0, 3.0]), torch.tensor([0.5, 0.0, 0.5]))
    assert found == pytest.approx(non_uniformity(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])))


def test_scores_that_follow_their_preference_are_controlled():
    first = torch.linspace(0, 1, 5)
    preferences = torch.stack([first, 1 - first], dim=1)
    scores = torch.stack([first**3, first], dim=1)  # the second follows the first's preference
    assert controllability(preferences, scores) == pytest.approx([1.0, -1.0])


def test_ranks_are_correlated_and_ties_share_a_rank():
    preferences = torch.tensor([[0.0], [0.3], [0.6], [1.0]])
    # ranks 1 2 3 4 against 2 1 3 4: 1 - 6 (1 + 1) / (4 (16 - 1))
    assert controllability(preferences, torch.tensor([[5.0], [1.0], [6.0], [70.0]])) == pytest.approx([0.8])
    # ranks against 1.5 1.5 3.5 3.5: covariance 4 over sqrt(5 x 4)
    assert controllability(preferences, torch.tensor([[1.0], [1.0], [2.0], [2.0]])) == pytest.approx([4 / 20**0.5])


def test_what_never_changes_shows_no_control():
    first = torch.linspace(0, 1, 5)
    constant = torch.full((5,), 0.9)
    columns = torch.stack([first, constant], dim=1)
    assert controllability(torch.stack([first, 1 - first], dim=1), columns) == pytest.approx([1.0, 0.0])
    assert controllability(columns, torch.stack([first, first], dim=1)) == pytest.approx([1.0, 0.0])


TWO = torch.tensor([1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hypervolume(TWO, TWO, maximise=True), r"points must be \[K, T\] .*; found shape \(2,\)"),
        (lambda: hypervolume(LOSSES[:0], TWO, maximise=True), r"points must be .* at least one point; found shape \(0"),
        (lambda: hypervolume(LOSSES, torch.ones(3), maximise=True), r"reference .* each of 2 objectives; .*\(3,\)"),
        (lambda: hypervolume(LOSSES * math.inf, TWO, maximise=True), "points must hold finite numbers; found inf"),
        (lambda: hypervolume(LOSSES, TWO * math.nan, maximise=True), "reference must hold finite numbers; found"),
        (lambda: non_dominated(LOSSES * math.nan, maximise=True), "points must hold finite numbers; found nan"),
        (lambda: non_uniformity(-TWO, TWO), "losses must be finite and not negative; found"),
        (lambda: non_uniformity(TWO, -TWO), "ray must be finite and not negative; found"),
        (lambda: non_uniformity(TWO, 0 * TWO), "ray must have an entry above 0; found"),
        (lambda: controllability(LOSSES, LOSSES[:2]), r"scores must have the shape of preferences, \(3, 2\); found"),
        (lambda: controllability(LOSSES[:1], LOSSES[:1]), "at least 2 points to correlate; found 1"),
        (lambda: controllability(LOSSES, LOSSES * math.nan), "scores must hold finite numbers; found nan"),
    ],
)
def test_tables_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
