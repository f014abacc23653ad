"""DARE: nothing dropped is linear merging or TIES, the expectation is too, and a seed decides everything."""

import pytest
import torch

import wemoe
from points import Point, Row
from wemoe.merging.rules import PIECE
from wemoe.merging.transforms import drop, seeded_generator

BASE = Row([1.0, 2.0, -1.0, 0.0], buffer=[1.0])
EXPERTS = {"x": Row([2.0, 4.0, -2.0, 0.5], buffer=[3.0]), "y": Row([0.0, 5.0, -2.0, 1.0], buffer=[3.0])}


def test_density_1_is_task_arithmetic_and_ties_without_trimming():
    linear, arithmetic = wemoe.dare_linear(BASE, EXPERTS, density=1.0), wemoe.task_arithmetic(BASE, EXPERTS)
    assert torch.equal(linear.row, arithmetic.row)
    for merge_func in ("mean", "sum"):
        dropped = wemoe.dare_ties(BASE, EXPERTS, density=1.0, merge_func=merge_func)
        assert torch.equal(dropped.row, wemoe.ties(BASE, EXPERTS, density=1.0, merge_func=merge_func).row)


def test_what_stays_is_rescaled_and_merged_by_hand():
    merged = wemoe.dare_linear(BASE, EXPERTS, density=0.5, scaling=1.0)
    # tau of x is (1, 2, -1, 0.5), of y (-1, 3, -1, 1); each entry counts twice or not at all
    possible = [(-2, 0, 2), (0, 4, 6, 10), (0, -2, -4), (0, 1, 2, 3)]
    for base, found, changes in zip(BASE.row.tolist(), merged.row.tolist(), possible, strict=True):
        assert found - base in changes


def test_the_expectation_over_seeds_is_what_is_not_dropped():
    draws = torch.stack([wemoe.dare_linear(BASE, EXPERTS, 0.5, 1.0, seed=s).row.detach() for s in range(400)])
    expected = wemoe.task_arithmetic(BASE, EXPERTS, 1.0).row
    # an entry tau has the standard deviation |tau| at density 0.5: at most sqrt(4 + 9) for a sum, 0.18 for the mean
    torch.testing.assert_close(draws.mean(dim=0), expected, atol=5 * 0.18, rtol=0)
    assert draws.std(dim=0).min() > 0.5  # and something was dropped


@pytest.mark.parametrize("method", [wemoe.dare_linear, wemoe.dare_ties])
def test_a_seed_decides_every_bit_and_no_global_state_matters(method):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = method(BASE, EXPERTS, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first.row, method(BASE, EXPERTS, seed=3).row)
    assert any(not torch.equal(first.row, method(BASE, EXPERTS, seed=s).row) for s in range(4, 9))


def test_what_an_expert_loses_does_not_depend_on_the_other_experts():
    alone = wemoe.dare_linear(BASE, {"y": EXPERTS["y"]}, scaling=1.0)
    beside_the_base = wemoe.dare_linear(BASE, {"still": BASE, "y": EXPERTS["y"]}, scaling=1.0)
    assert torch.equal(alone.row, beside_the_base.row)


def test_floating_point_buffers_are_not_dropped():
    assert wemoe.dare_linear(BASE, EXPERTS, density=0.01, scaling=0.5).running.tolist() == [3.0]


# theta_0 = (1, 2), tau = (1, 0) and (3, -2)
POINT, POINTS = Point(1.0, 2.0), [Point(2.0, 2.0), Point(4.0, 0.0)]


def draws(method, **options):
    """What comes out over many seeds, each value of each parameter once."""
    found = [method(POINT, POINTS, density=0.5, seed=seed, **options).values() for seed in range(40)]
    return [set(values) for values in zip(*found, strict=True)][:2]


def test_a_model_of_two_parameters_by_hand():
    # an entry stays, twice as large, or does not: 1 + {0, 2} + {0, 6}, and 2 + 0 + {0, -4}
    assert draws(wemoe.dare_linear, scaling=1.0) == [{1.0, 3.0, 7.0, 9.0}, {2.0, -2.0}]
    # weights of 2 and 1: 1 + {0, 4} + {0, 6}
    assert draws(wemoe.dare_linear, scaling=1.0, weights=[2, 1]) == [{1.0, 5.0, 7.0, 11.0}, {2.0, -2.0}]
    # divided by 2 + 2
    assert draws(wemoe.dare_linear, scaling=1.0, weights=[2, 2], normalize=True) == [{1.0, 2.0, 4.0, 5.0}, {2.0, 0.0}]
    # as large as it was: 1 + {0, 1} + {0, 3}
    assert draws(wemoe.dare_linear, scaling=1.0, rescale=False) == [{1.0, 2.0, 4.0, 5.0}, {2.0, 0.0}]
    # the mean over what stays: 1 + {0, 2, 6, 4}
    assert draws(wemoe.dare_ties) == [{1.0, 3.0, 7.0, 5.0}, {2.0, -2.0}]
    assert draws(wemoe.dare_ties, normalize=False) == [{1.0, 3.0, 7.0, 9.0}, {2.0, -2.0}]
    assert draws(wemoe.dare_ties, weights=[1, 3]) == [{1.0, 3.0, 7.0, 1.0 + 20 / 4}, {2.0, -2.0}]


def test_each_expert_may_have_a_density_of_its_own():
    found = {wemoe.dare_linear(POINT, POINTS, [1.0, 0.5], 1.0, seed).a.item() for seed in range(20)}
    assert found == {2.0, 8.0}  # 1 + 1 + {0, 6}


def test_what_is_dropped_of_a_tensor_does_not_depend_on_how_it_is_read():
    size = 2 * PIECE + 77
    tau = torch.randn(size)
    expected = drop(tau, 0.3, seeded_generator(5, "x", "a"))
    assert torch.equal(wemoe.dare_linear({"a": torch.zeros(size)}, {"x": {"a": tau}}, 0.3, 1.0, seed=5)["a"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\]; found 0"),
        ({"scaling": torch.nan}, "scaling must be a finite number; found nan"),
    ],
)
@pytest.mark.parametrize("method", [wemoe.dare_linear, wemoe.dare_ties])
def test_options_out_of_range_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(BASE, EXPERTS, **options)


def test_an_unknown_merge_is_refused():
    with pytest.raises(ValueError, match="merge_func must be 'mean' or 'sum'; found 'max'"):
        wemoe.dare_ties(BASE, EXPERTS, merge_func="max")
