"""Preferences: random rays that a generator alone decides, and regular grids of the simplex."""

import math

import pytest
import torch

from wemoe.pareto.rays import equal_weights, sample_ray, simplex_grid


def rays(concentration, count, tasks=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([sample_ray(tasks, concentration, generator) for _ in range(count)])


@pytest.mark.parametrize("concentration", [1e-3, 0.1, 1.0, 100.0])
def test_a_ray_is_inside_the_simplex(concentration):
    found = rays(concentration, 200)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(200))
    assert found.min() >= 1e-6
    if concentration < 0.01:
        assert found.min() < 2e-6  # without the bound there would be zeros


def test_rays_are_spread_as_dirichlets_distribution_is():
    for concentration in (0.2, 1.0, 5.0):
        found = rays(concentration, 2000)
        # of an entry: mean 1/T, variance (T - 1) / (T^2 (T c + 1)); 2,000 draws miss either by a few per cent
        variance = 2 / (9 * (3 * concentration + 1))
        torch.testing.assert_close(
            found.mean(dim=0), torch.full((3,), 1 / 3), atol=5 * (variance / 2000) ** 0.5, rtol=0
        )
        torch.testing.assert_close(found.var(dim=0), torch.full((3,), variance), atol=0, rtol=0.15)


def test_the_generator_alone_decides():
    first = rays(1.0, 3)
    torch.manual_seed(123)
    assert torch.equal(rays(1.0, 3), first)
    assert not torch.equal(rays(1.0, 3, seed=1), first)
    assert len(first.unique(dim=0)) == 3
    state = torch.get_rng_state()
    rays(1.0, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_that_goes_on_gives_the_same_rays():
    generator, later = torch.Generator().manual_seed(0), torch.Generator()
    sample_ray(2, 1.0, generator)
    later.set_state(generator.get_state())
    assert torch.equal(sample_ray(2, 1.0, generator), sample_ray(2, 1.0, later))


def test_a_grid_of_two_tasks_goes_from_the_second_to_the_first():
    found = simplex_grid(2, 11)
    first = torch.arange(11, dtype=torch.float64) / 10
    assert torch.equal(found, torch.stack([first, 1 - first], dim=1).float())


def test_a_grid_of_three_tasks_is_in_lexicographic_order():
    expected = [[0, 0, 2], [0, 1, 1], [0, 2, 0], [1, 0, 1], [1, 1, 0], [2, 0, 0]]
    assert torch.equal(simplex_grid(3, 3), torch.tensor(expected) / 2)


@pytest.mark.parametrize(("tasks", "points", "count"), [(2, 11, 11), (3, 11, 66), (8, 2, 8), (6, 4, 56), (1, 5, 1)])
def test_a_grid_has_every_point_once(tasks, points, count):
    found = simplex_grid(tasks, points)
    assert (found.shape, found.dtype) == ((count, tasks), torch.float32)
    assert math.comb(points - 1 + tasks - 1, tasks - 1) == count
    assert len(found.unique(dim=0)) == count
    torch.testing.assert_close(found.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(found * (points - 1), (found * (points - 1)).round())


def test_two_points_are_the_corners():
    assert torch.equal(simplex_grid(8, 2), torch.eye(8).flip(0))


def test_equal_weights_sum_to_one():
    assert equal_weights(4).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simplex_grid(2, 1), "points must be at least 2, .*; found 1"),
        (lambda: simplex_grid(0, 3), "tasks must be at least 1; found 0"),
        (lambda: equal_weights(0), "tasks must be at least 1; found 0"),
        (lambda: rays(0.0, 1), r"concentration must be positive and finite; found 0\.0"),
        (lambda: rays(math.inf, 1), "concentration must be positive and finite; found inf"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
