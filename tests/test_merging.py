"""Static merging and the task vectors below it: hand-worked numbers, properties, and every mismatch by name."""

import copy

import pytest
import torch

import wemoe
from models import experts_of, fine_tuned, tiny_bert
from points import Point
from wemoe.task_vectors import name_experts, stack_task_vectors

BASE, EXPERTS = Point(1.0, 2.0, count=7), [Point(2.0, 2.0), Point(4.0, 0.0)]


def test_average_is_that_of_the_experts():
    assert wemoe.average(BASE, EXPERTS).values() == [3.0, 1.0, 7]


@pytest.mark.parametrize("weights", [[1, 3], (0.25, 0.75), {"task_1": 3.0, "task_0": 1.0}])
def test_the_weights_of_an_average_count_by_their_ratios(weights):
    # (2, 2) and (4, 0), a quarter and three quarters
    assert wemoe.average(BASE, EXPERTS, weights).values() == [3.5, 0.5, 7]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"one number for each expert, \[0, 1\]; found \[0\]"),
        ({"task_0": 1.0, "x": 1.0}, r"one number for each expert, \['task_0', 'task_1'\]; found \['task_0', 'x'\]"),
        ([1.0, -1.0], r"finite numbers with a positive sum; found \[1.0, -1.0\]"),
        ([1.0, torch.inf], "finite numbers; found"),
    ],
)
def test_weights_that_make_no_average_are_refused(weights, message):
    with pytest.raises(ValueError, match="weights must (hold|be) " + message):
        wemoe.average(BASE, EXPERTS, weights)


def test_task_arithmetic_adds_scaled_task_vectors():
    # tau = (1, 0) and (3, -2); 0.5 times their sum is (2, -1)
    assert wemoe.task_arithmetic(BASE, EXPERTS, 0.5).values() == [3.0, 1.0, 7]
    assert wemoe.task_arithmetic(BASE, EXPERTS, 0.0).values() == BASE.values()


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        # 2 (1, 0) + (3, -2) = (5, -2)
        ({"scaling": 0.5, "weights": [2, 1]}, [3.5, 1.0]),
        ({"scaling": 0.5, "weights": {"task_1": 1, "task_0": 2}}, [3.5, 1.0]),
        # (1, 0) + 3 (3, -2) = (10, -6), divided by 1 + 3
        ({"scaling": 1.0, "weights": [1, 3], "normalize": True}, [3.5, 0.5]),
        ({"scaling": 1.0, "normalize": True}, [3.0, 1.0]),
        # weights without a sum divide nothing: (1, 0) - (3, -2)
        ({"scaling": 1.0, "weights": [1, -1], "normalize": True}, [-1.0, 4.0]),
    ],
)
def test_task_arithmetic_with_weights(options, merged):
    assert wemoe.task_arithmetic(BASE, EXPERTS, **options).values() == [*merged, 7]


def test_an_average_that_is_not_normalised_is_a_sum():
    assert wemoe.average(BASE, EXPERTS, [1, 0.5], normalize=False).values() == [4.0, 2.0, 7]
    assert wemoe.average(BASE, EXPERTS, normalize=False).values() == [6.0, 2.0, 7]


def test_one_expert_at_scaling_1_is_the_expert():
    base = tiny_bert()
    expert = fine_tuned(base, seed=1)
    merged = wemoe.task_arithmetic(base, {"only": expert}, 1.0)
    for name, tensor in merged.state_dict().items():
        # base + (expert - base) is exact to one rounding of each operation
        torch.testing.assert_close(tensor, expert.state_dict()[name], atol=1e-6, rtol=0)


def test_the_order_of_the_experts_changes_nothing_but_rounding():
    base = tiny_bert()
    experts = experts_of(base)
    forward = wemoe.task_arithmetic(base, experts)
    backward = wemoe.task_arithmetic(base, dict(reversed(experts.items())))
    for name, tensor in forward.state_dict().items():
        torch.testing.assert_close(tensor, backward.state_dict()[name], atol=1e-6, rtol=0)


def test_arguments_stay_untouched_and_flags_do_not_matter():
    base = tiny_bert()
    experts = experts_of(base)
    before = copy.deepcopy([base.state_dict(), *(e.state_dict() for e in experts.values())])
    merged = wemoe.task_arithmetic(base, experts)
    frozen = wemoe.task_arithmetic(
        copy.deepcopy(base).requires_grad_(False),
        {task: copy.deepcopy(e).requires_grad_(False) for task, e in experts.items()},
    )
    after = [base.state_dict(), *(e.state_dict() for e in experts.values())]
    assert all(torch.equal(x[name], y[name]) for x, y in zip(before, after, strict=True) for name in x)
    assert all(torch.equal(x, y) for x, y in zip(merged.parameters(), frozen.parameters(), strict=True))


def test_half_precision_task_vectors_are_rounded_once():
    base, expert = torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([1.0078125, 3.5]).bfloat16()
    stacked = stack_task_vectors(base, [expert])
    assert stacked.dtype == torch.bfloat16
    assert stacked.tolist() == [[0.0078125, 0.5]]


def test_a_list_of_experts_gets_names_in_order():
    assert list(name_experts(EXPERTS)) == ["task_0", "task_1"]


@pytest.mark.parametrize(
    ("experts", "error", "message"),
    [
        ([], ValueError, r"at least one expert \(T >= 1\); found none"),
        ({}, ValueError, r"at least one expert \(T >= 1\); found none"),
        (Point(1, 1), TypeError, "must be a list of modules or a mapping .* found Point"),
        ([torch.ones(2)], TypeError, r"expert_models\['task_0'\] must be a module, a state dict or a .* found Tensor"),
        ({3: Point(1, 1)}, TypeError, "keyed by task names .* found 3"),
    ],
)
def test_experts_of_the_wrong_kind_are_refused(experts, error, message):
    with pytest.raises(error, match=message):
        wemoe.task_arithmetic(BASE, experts)


def test_a_missing_and_an_unexpected_key_are_named():
    expert = Point(1.0, 1.0)
    expert.c = expert.b
    del expert.b
    with pytest.raises(ValueError, match=r"expert_models\['x'\] .* missing: 'b'; unexpected: 'c'"):
        wemoe.average(BASE, {"x": expert})


def test_another_shape_is_named():
    with pytest.raises(
        ValueError, match=r"'embeddings.position_embeddings.weight' is \(16, 16\), in base_model \(32, 16\)"
    ):
        wemoe.average(tiny_bert(), [tiny_bert(max_position_embeddings=16)])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_named(value):
    with pytest.raises(ValueError, match=r"expert_models\['task_1'\] must hold finite .* infinity in: 'b'"):
        wemoe.average(BASE, [EXPERTS[0], Point(1.0, value)])
    with pytest.raises(ValueError, match=r"base_model must hold finite .* infinity in: 'a'"):
        wemoe.average(Point(value, 1.0), EXPERTS)


def test_a_scaling_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="scaling must be a finite number; found nan"):
        wemoe.task_arithmetic(BASE, EXPERTS, torch.nan)


def test_a_sum_beyond_the_range_of_float16_is_named():
    base, expert = Point(1.0, 1.0).half(), Point(2.0, 1.0).half()
    with pytest.raises(ValueError, match=r"the merged 'a' in float16 must be within \+-65504; found a larger number"):
        wemoe.ties(base, [expert], density=1.0, scaling=1e5)
