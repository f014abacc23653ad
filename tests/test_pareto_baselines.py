"""Fronts of task vectors: each point is the model that its formula says, measured as it is told."""

import pytest
import torch

from tiny_suite import tiny_suite
from wemoe.evaluation import Measured
from wemoe.pareto.baselines import (
    base_front,
    coefficient_grid_front,
    individual_front,
    search_scaling,
    task_arithmetic_front,
)
from wemoe.pareto.rays import simplex_grid

NAME = "encoder.layer.0.output.dense.weight"


@pytest.fixture
def suite():
    return tiny_suite()


def projections(suite):
    """A measure that tells where a model is: lambda_t of theta_0 + sum_t lambda_t tau_t, read off one weight."""
    own = suite.base.state_dict()[NAME]
    taus = torch.stack([expert.state_dict()[NAME] - own for expert in suite.experts.values()])
    columns = taus.flatten(1).double().T

    def measure(model):
        moved = (model.state_dict()[NAME] - own).flatten().double()
        found = torch.linalg.lstsq(columns, moved.unsqueeze(1)).solution.flatten().tolist()
        return Measured(dict(zip(suite.experts, found, strict=True)), dict.fromkeys(suite.experts, 0.5))

    return measure


def close(table, expected):
    """To the rounding of weights of about 0.1 that moved by about 0.01, in fp32."""
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


def test_task_vectors_are_weighted_by_the_preference_and_the_scaling(suite):
    grid = simplex_grid(2, 3)
    front = task_arithmetic_front(suite, grid, 1.4, measure=projections(suite), progress=False)
    close(front.losses, [[0.0, 1.4], [0.7, 0.7], [1.4, 0.0]])
    assert front.preferences.tolist() == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert (front.label, front.tasks) == ("task arithmetic", ("colours", "animals"))


def test_the_grid_holds_every_combination_of_coefficients(suite):
    front = coefficient_grid_front(suite, [0.0, 0.5, 1.0], measure=projections(suite), progress=False)
    expected = [[a, b] for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
    close(front.losses, expected)
    assert {point.preference for point in front.points} == {None}


def test_the_models_at_hand_are_points_too(suite):
    measure = projections(suite)
    experts = individual_front(suite, measure=measure, progress=False)
    close(experts.losses, [[1.0, 0.0], [0.0, 1.0]])
    assert experts.preferences.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    base = base_front(suite, measure=measure)
    close(base.losses, [[0.0, 0.0]])
    assert base.points[0].preference is None


def test_without_a_measure_the_suite_measures(suite):
    front = individual_front(suite, progress=False)
    for point, expert in zip(front.points, suite.experts.values(), strict=True):
        measured = suite.measure(expert)
        assert (point.losses, point.accuracies) == (measured.losses, measured.accuracies)
    assert set(front.points[0].accuracies.values()) != {0.5}


def test_a_preference_for_one_task_at_scaling_1_is_its_expert(suite):
    corners = task_arithmetic_front(suite, torch.eye(2), progress=False)
    experts = individual_front(suite, progress=False)
    # theta_0 + (theta_t - theta_0) rounds twice in fp32
    torch.testing.assert_close(corners.losses, experts.losses, atol=1e-5, rtol=0)


def test_the_scaling_of_the_largest_hypervolume_of_losses_is_found(suite):
    measure = projections(suite)

    def losses(model):
        """Least where the two coefficients sum to 1.2."""
        total = sum(measure(model).losses.values())
        return dict.fromkeys(suite.experts, (total - 1.2) ** 2)

    found = search_scaling(suite, simplex_grid(2, 3), [0.5, 1.0, 1.3, 2.0], losses=losses, progress=False)
    assert found.best == {"scaling": 1.3}
    close(found.model, [[0.01, 0.01]] * 3)
    volumes = {point["scaling"]: volume for point, volume in found.scores}
    # the base's loss is the worst, 1.44: up to it, a point (l, l) dominates (1.44 - l)^2
    assert volumes[0.5] == pytest.approx((1.44 - 0.49) ** 2, abs=1e-3)
    assert volumes[1.3] == pytest.approx((1.44 - 0.01) ** 2, abs=1e-3)


def test_the_reference_of_the_search_may_be_given(suite):
    reference = torch.tensor([10.0, 10.0], dtype=torch.float64)
    found = search_scaling(suite, simplex_grid(2, 2), [1.0], reference=reference, progress=False)
    (_, volume), *_ = found.scores
    first, second = found.model.tolist()
    expected = (10 - first[0]) * (10 - first[1]) + (10 - second[0]) * (10 - second[1])
    overlap = (10 - max(first[0], second[0])) * (10 - max(first[1], second[1]))
    assert volume == pytest.approx(expected - overlap, rel=1e-9)


def test_the_search_reads_validation_losses_by_default(suite):
    found = search_scaling(suite, torch.eye(2), [1.0], progress=False)
    expected = task_arithmetic_front(suite, torch.eye(2), progress=False).losses
    torch.testing.assert_close(found.model, expected)


def test_nothing_that_was_given_changes(suite):
    before = {name: tensor.clone() for name, tensor in suite.base.state_dict().items()}
    coefficient_grid_front(suite, [0.5], progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in suite.base.state_dict().items())


@pytest.mark.parametrize("preferences", [torch.ones(3, 3) / 3, torch.tensor([0.5, 0.5])])
def test_preferences_of_other_tasks_are_refused(suite, preferences):
    with pytest.raises(ValueError, match=r"preferences must be \[K, 2\], one in each row; found shape"):
        task_arithmetic_front(suite, preferences, progress=False)


def test_a_scaling_that_is_no_number_is_refused(suite):
    with pytest.raises(ValueError, match="scaling must be a finite number"):
        task_arithmetic_front(suite, torch.eye(2), float("nan"), progress=False)


def test_a_grid_without_coefficients_is_refused(suite):
    with pytest.raises(ValueError, match="must hold at least one number"):
        coefficient_grid_front(suite, [], progress=False)
    with pytest.raises(TypeError, match="must be a list of numbers"):
        coefficient_grid_front(suite, "0.5", progress=False)


def test_a_label_is_the_fronts_own(suite):
    front = base_front(suite, measure=projections(suite), label="theta_0")
    assert front.label == "theta_0"
