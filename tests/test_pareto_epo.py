"""EPO: steps worked by hand, zeros, scale, fallbacks that are counted and logged, and rays met on convex problems."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from wemoe.pareto import epo_programs
from wemoe.pareto.epo import EPO
from wemoe.pareto.epo_programs import ROUNDING, balance_program, relaxed_descent_program, restricted_descent_program
from wemoe.pareto.metrics import non_uniformity
from wemoe.pareto.rays import sample_ray
from wemoe.pareto.scalarizations import SCALARIZATIONS, LinearScalarization

SOLVER = 1e-5  # weights are off by the slack for rounding, 1e-6, and by HiGHS's tolerance, 1e-7, times about T


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


HALVES, THIRDS = tensor(0.5, 0.5), tensor(1, 1, 1) / 3
OPPOSED = tensor([1, -0.5], [-0.5, 1])


def weights(losses, gram, ray, epo=None):
    """Weights of a step that needs no fallback."""
    epo = epo or EPO()
    found = epo(losses, gram, ray)
    assert not epo.fallbacks
    return found


def assert_weights(found, *expected):
    assert_close(found, tensor(*expected), atol=SOLVER, rtol=0)


# --- balance ---------------------------------------------------------------------------------------------------------


def test_off_the_ray_the_larger_loss_alone_falls_where_gradients_are_orthogonal():
    epo = EPO()
    assert_weights(weights(tensor(1, 3), torch.eye(2).double(), HALVES, epo), 0, 2)
    assert_weights(weights(tensor(1, 3), torch.eye(2).double(), tensor(0.9, 0.1), epo), 2, 0)
    assert epo.modes == {"balance": 2}


def test_a_small_loss_may_rise_by_as_much_as_along_the_anchor():
    mu = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)  # shares are 1/4 and 3/4
    anchor = 0.5 * (math.log(0.5) - mu), 0.5 * (math.log(1.5) - mu)
    change = anchor[0] - 0.5 * anchor[1]  # -0.48; the second loss alone would raise the first by 0.5
    first = (change + 0.5) / 1.5  # from w - 0.5 (1 - w) = change
    assert 0.01 < first < 0.02
    assert_weights(weights(tensor(1, 3), OPPOSED, HALVES), 2 * first, 2 * (1 - first))


def test_where_the_anchor_lowers_no_loss_none_rises():
    gram = tensor([0.5, 1], [1, 2.5])  # gradients (-0.5, 0.5) and (-1.5, 0.5)
    # the anchor is orthogonal to the losses, so along (-5, 1): C a is along (-1.5, -2.5), largest for the first
    assert_weights(weights(tensor(0.25, 1.25), gram, HALVES), 2, 0)


def test_the_balance_program_frees_what_falls_and_holds_what_is_largest():
    gram = torch.diag(tensor(4, 1, 1, 1))
    change, shares = tensor(-1, 2, -3, -4), tensor(0.1, 0.2, 0.3, 0.4)
    program = balance_program(gram, change, shares)
    assert_close(program.objective, change / 4)
    assert_close(program.rows, torch.diag(tensor(1, 1, 0.5, 0.5))[[0, 2, 3]])  # over |g_j| max |g|: 4, 2, 2, 2
    assert_close(program.least, tensor(-0.25, -1.5, 0) - ROUNDING)


def test_the_balance_program_holds_all_losses_where_the_anchor_lowers_none():
    program = balance_program(torch.eye(2).double(), tensor(-1, -2), tensor(0.4, 0.6))
    assert_close(program.least, tensor(0, 0) - ROUNDING)


# --- descent ---------------------------------------------------------------------------------------------------------


def test_on_the_ray_all_losses_fall_by_the_most_that_lets_none_rise():
    epo = EPO()
    gram = tensor([1, -0.5], [-0.5, 4])
    # the columns sum to 0.5 and 3.5, so that the second weight grows until w - 0.5 (1 - w) = 0
    assert_weights(weights(tensor(3, 1), gram, tensor(0.25, 0.75), epo), 2 / 3, 4 / 3)
    assert epo.modes == {"descent": 1}


def test_descent_keeps_to_the_ray():
    program = restricted_descent_program(torch.eye(2).double(), tensor(0.2, -0.4))
    assert_close(program.rows[-1], tensor(0.5, -1))
    assert_close(program.least, tensor(0, 0, 0) - ROUNDING)
    program = restricted_descent_program(torch.eye(2).double(), tensor(-0.2, -0.4))
    assert_close(program.least[-1], tensor(-0.5)[0] - ROUNDING)


def test_descent_is_that_of_the_sum_of_all_losses():
    gram = tensor([1, -0.5], [-0.5, 4])  # columns sum to 0.5 and 3.5
    expected = tensor(0.5, 3.5) / 3.5
    assert_close(restricted_descent_program(gram, tensor(0, 0)).objective, expected)
    assert_close(relaxed_descent_program(gram).objective, expected)


def test_the_mode_changes_at_the_threshold():
    losses = tensor(1.01, 0.99)
    distance = non_uniformity(losses, HALVES)
    for epo, mode in ((EPO(1.01 * distance), "descent"), (EPO(0.99 * distance), "balance")):
        weights(losses, torch.eye(2).double(), HALVES, epo)
        assert epo.modes == {mode: 1}


# --- zeros and scale -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", [(3, 1), (0, 1), (3, 0)])
def test_at_a_corner_one_loss_counts_alone(losses):
    assert_weights(weights(tensor(*losses), OPPOSED, tensor(1, 0)), 2, 0)
    assert_weights(weights(tensor(*losses), OPPOSED, tensor(0, 1)), 0, 2)


def test_what_does_not_count_leaves_the_program_of_the_others_alone():
    gram = tensor([1, 9, -0.5], [9, 100, -7], [-0.5, -7, 1])
    alone = weights(tensor(1, 3), OPPOSED, HALVES)
    found = weights(tensor(1, 50, 3), gram, tensor(0.5, 0, 0.5))
    assert_close(found, 1.5 * tensor(alone[0], 0, alone[1]))


def test_a_loss_of_zero_makes_room_for_the_others():
    epo = EPO()
    assert_weights(weights(tensor(0, 1), torch.diag(tensor(0, 1)), HALVES, epo), 0, 2)
    assert_weights(weights(tensor(0, 1, 3), torch.diag(tensor(0, 1, 1)), THIRDS, epo), 0, 0, 3)
    assert epo.modes == {"balance": 2}


def test_the_limit_of_a_loss_that_vanishes_is_what_zero_gives():
    for loss in (1e-3, 1e-8, 1e-16):
        gram = torch.diag(tensor(loss, 1))  # the square of a gradient vanishes like its loss
        assert_weights(weights(tensor(loss, 1), gram, HALVES), 0, 2)


def test_losses_that_are_all_zero_are_on_the_ray():
    epo = EPO()
    assert_weights(weights(tensor(0, 0), torch.diag(tensor(1, 4)), HALVES, epo), 0, 2)
    assert epo.modes == {"descent": 1}


def test_without_gradients_the_weights_are_the_ray():
    epo = EPO()
    assert_weights(weights(tensor(0, 0), torch.zeros(2, 2).double(), tensor(0.3, 0.7), epo), 0.6, 1.4)
    assert epo.modes == {"stationary": 1}


@pytest.mark.parametrize("losses", [(1, 3), (2, 2)])
def test_the_scale_of_gradients_does_not_matter(losses):
    expected = weights(tensor(*losses), OPPOSED, HALVES)
    for scale in (1e-16, 1e16):
        # fp64's own precision and no more
        assert_close(weights(tensor(*losses), scale * OPPOSED, HALVES), expected, atol=1e-9, rtol=0)


def test_a_gradient_that_is_small_beside_another_still_counts():
    gram = tensor([1e-16, -0.5e-8], [-0.5e-8, 1])  # norms 1e-8 and 1: unscaled, the first loss could rise
    assert weights(tensor(1, 1), gram, HALVES)[1] < SOLVER


def test_opposite_gradients_that_are_known_to_fp32_balance_each_other():
    off = -1 - 2e-7  # by rounding more than |g_1| |g_2|, so that no step lowers both
    assert_weights(weights(tensor(1, 1), tensor([1, off], [off, 1]), HALVES), 1, 1)


def test_weights_are_like_the_losses_and_what_came_in_is_as_it_was():
    losses, gram, ray = torch.tensor([1.0, 3.0], requires_grad=True), torch.eye(2), torch.tensor([0.5, 0.5])
    before = [value.detach().clone() for value in (losses, gram, ray)]
    found = weights(losses, gram, ray)
    assert (found.dtype, found.requires_grad, found.shape) == (torch.float32, False, (2,))
    assert all(torch.equal(value, old) for value, old in zip((losses, gram, ray), before, strict=True))


# --- fallbacks -------------------------------------------------------------------------------------------------------


def test_where_no_descent_keeps_to_the_ray_the_relaxed_one_is_taken_counted_and_logged(caplog):
    # The anchor is along (2, -1, -1), C a along (1, -9, -6). Keeping to the ray takes w_1 >= 9 w_2 + 6 w_3, the second
    # loss takes w_1 <= 5 w_2 + 2 w_3: no weights do both. All losses fall most with the third gradient.
    gram = tensor([1, -1, 2], [-1, 5, 2], [2, 2, 8])
    epo = EPO()
    with caplog.at_level(logging.WARNING, "wemoe.pareto.epo"):
        assert_weights(epo(tensor(1.01, 1, 1), gram, THIRDS), 0, 0, 3)
    assert epo.fallbacks == {"restricted descent: infeasible": 1}
    assert "restricted descent: infeasible" in caplog.text


@pytest.mark.parametrize(
    ("losses", "reasons"),
    [
        ((1, 3), ["balance: numerical difficulties"]),
        ((1, 1), ["restricted descent: numerical difficulties", "relaxed descent: numerical difficulties"]),
    ],
)
def test_without_a_solution_the_weights_are_linear_counted_and_logged(losses, reasons, monkeypatch, caplog):
    monkeypatch.setattr(epo_programs, "linprog", lambda *_, **__: SimpleNamespace(status=4, x=None))
    epo = EPO(balanced=0.05)  # (1, 1) is near enough to the ray
    ray = tensor(0.4, 0.6)
    with caplog.at_level(logging.WARNING, "wemoe.pareto.epo"):
        for _ in range(2):
            assert_weights(epo(tensor(*losses), OPPOSED, ray), 0.8, 1.2)
    assert epo.fallbacks == dict.fromkeys(reasons, 2)
    assert all(caplog.text.count(reason) == 2 for reason in reasons)


# --- convex problems with known fronts -------------------------------------------------------------------------------

EDGE = tensor([0, 0], [1, 0])
TRIANGLE = tensor([0, 0, 0], [1, 0, 0], [0.5, math.sqrt(0.75), 0])


def losses_of(x, centres):
    """Half the squared distances of x [P] from the centres [T, P]; the front is their convex hull."""
    return (x - centres).square().sum(dim=1) / 2


def descend(epo, centres, ray, start, steps, rate):
    x = start.clone()
    for step in range(steps):
        jacobian = x - centres  # [T, P]
        alpha = epo(losses_of(x, centres), jacobian @ jacobian.T, ray)
        x -= rate * (1 - 0.9 * step / steps) * (alpha @ jacobian)
    return x


def test_twenty_rays_are_met_on_the_front_of_a_convex_problem():
    epo, generator = EPO(), torch.Generator().manual_seed(0)
    for _ in range(20):
        ray = sample_ray(2, 1.0, generator).double()
        x = descend(epo, EDGE, ray, tensor(0.5, 1), steps=40, rate=0.2)
        assert non_uniformity(losses_of(x, EDGE), ray) < 1e-3
        roots = ray.sqrt()  # r_1 x^2 = r_2 (1 - x)^2
        known = tensor(roots[1] / roots.sum(), 0)
        # non-uniformity 2 d^2 of shares 1/2 + d and 1/2 - d moves x by 2 d x (1 - x), at most 0.012 where it is 1e-3
        assert_close(x, known, atol=0.012, rtol=0)
    assert min(epo.modes["balance"], epo.modes["descent"]) > 100
    assert epo.modes.total() == 800
    assert not epo.fallbacks


def test_rays_of_three_objectives_are_met():
    epo, generator = EPO(), torch.Generator().manual_seed(0)
    for _ in range(5):
        shares = 0.8 * sample_ray(3, 1.0, generator).double() + 0.2 / 3
        known = shares @ TRIANGLE
        ray = 1 / losses_of(known, TRIANGLE)
        x = descend(epo, TRIANGLE, ray / ray.sum(), tensor(0.5, 0.3, 0.7), steps=60, rate=0.1)
        assert non_uniformity(losses_of(x, TRIANGLE), ray) < 1e-3
        assert_close(x, known, atol=0.02, rtol=0)  # twice the bound of two objectives
    assert not epo.fallbacks


@pytest.mark.parametrize(
    ("centres", "ray", "known"),
    [
        (EDGE, (1, 0), (0, 0)),
        (EDGE, (0, 1), (1, 0)),
        (TRIANGLE, (0, 0, 1), (0.5, math.sqrt(0.75), 0)),
        (TRIANGLE, (0.5, 0.5, 0), (0.5, 0, 0)),
        (TRIANGLE, (0.8, 0.2, 0), (1 / 3, 0, 0)),  # 4 x^2 = (1 - x)^2
    ],
)
def test_corners_and_edges_of_the_simplex_are_met(centres, ray, known):
    epo = EPO()
    start = tensor(0.4, 0.9) if len(ray) == 2 else tensor(0.4, 0.3, 0.7)
    x = descend(epo, centres, tensor(*ray), start, steps=60, rate=0.2)
    assert_close(x, tensor(*known), atol=0.012, rtol=0)  # as above; the start's 0.9 is left by less
    assert not epo.fallbacks


# --- by name, and at the door ----------------------------------------------------------------------------------------


def test_linear_scalarisation_is_the_ray():
    found = SCALARIZATIONS["ls"]()(torch.ones(2), torch.eye(2), tensor(0.3, 0.7))
    assert_close(found, torch.tensor([0.3, 0.7]))


def test_scalarisations_are_made_anew_by_name():
    assert {name: type(make()) for name, make in SCALARIZATIONS.items()} == {"ls": LinearScalarization, "epo": EPO}
    assert SCALARIZATIONS["epo"]() is not SCALARIZATIONS["epo"]()


@pytest.mark.parametrize(
    ("losses", "gram", "ray", "message"),
    [
        ((1, 2, 3), OPPOSED, (0.5, 0.5), r"losses and ray must both be \[T\]; found shapes \(3,\) and \(2,\)"),
        ((1, -1), OPPOSED, (0.5, 0.5), r"losses must be finite and not negative; found \[1.0, -1.0\]"),
        ((1, math.nan), OPPOSED, (0.5, 0.5), r"losses must be finite and not negative; found \[1.0, nan\]"),
        ((1, 1), OPPOSED, (1.5, -0.5), r"ray must be finite and not negative; found \[1.5, -0.5\]"),
        ((1, 1), OPPOSED, (0, 0), r"ray must have an entry above 0; found \[0.0, 0.0\]"),
        ((1, 1), OPPOSED[:1], (0.5, 0.5), r"gram must be \[T, T\] for 2 losses; found shape \(1, 2\)"),
        ((1, 1), math.inf * OPPOSED, (0.5, 0.5), r"gram must hold finite numbers; found \[\[inf"),
    ],
)
def test_what_is_no_problem_of_this_kind_is_refused(losses, gram, ray, message):
    with pytest.raises(ValueError, match=message):
        EPO()(tensor(*losses), gram, tensor(*ray))
