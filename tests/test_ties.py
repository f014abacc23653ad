"""TIES by hand: what is trimmed, which sign is elected, what is merged."""

import pytest
import torch

import wemoe
from points import Point, Row
from wemoe.merging.rules import PIECE, open_sources
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


# a model of two parameters, theta_0 = (1, 2), tau = (1, 0) and (3, -2)
POINT, POINTS = Point(1.0, 2.0), [Point(2.0, 2.0), Point(4.0, 0.0)]


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        # each keeps one entry of two: (1, 0) and (3, 0); their mean (2, 0)
        ({"density": 0.5}, [3.0, 2.0]),
        # whole task vectors: the signs are +, -; the mean of 1 and 3, and -2 alone
        ({"density": 1.0}, [3.0, 0.0]),
        ({"density": 1.0, "merge_func": "sum"}, [5.0, 0.0]),
        ({"density": 1.0, "normalize": False}, [5.0, 0.0]),
        ({"density": 1.0, "merge_func": "sum", "normalize": True}, [3.0, 0.0]),
        # the first keeps one entry, the second both
        ({"density": [0.5, 1.0]}, [3.0, 0.0]),
        ({"density": {"task_1": 0.5, "task_0": 1.0}}, [3.0, 2.0]),
        # w tau = (1, 0) and (9, -6); 10 / (1 + 3), and -6 / 3
        ({"density": 1.0, "weights": [1, 3]}, [3.5, 0.0]),
        ({"density": 1.0, "weights": [1, 3], "scaling": 0.5, "merge_func": "sum"}, [6.0, -1.0]),
        # w tau = (1, 0) and (-3, 2): the signs are -, +; -3 / -1 and 2 / -1
        ({"density": 1.0, "weights": [1, -1]}, [4.0, 0.0]),
        # of a tensor of one entry at least that one is kept
        ({"density": 0.5, "per": "tensor"}, [3.0, 0.0]),
    ],
)
def test_a_model_of_two_parameters_by_hand(options, merged):
    assert wemoe.ties(POINT, POINTS, **options).values() == [*merged, 0]


def test_tensors_are_trimmed_together_or_each_for_itself():
    base, tuned = (
        {"a": torch.zeros(2), "b": torch.zeros(2)},
        {"a": torch.tensor([5.0, -4.0]), "b": torch.tensor([1.0, 0.5])},
    )
    together, apart = (wemoe.ties(base, [tuned], 0.5, per=per) for per in ("model", "tensor"))
    assert [t.tolist() for t in together.values()] == [[5.0, -4.0], [0.0, 0.0]]
    assert [t.tolist() for t in apart.values()] == [[5.0, 0.0], [1.0, 0.0]]


def test_what_cancels_takes_the_majoritys_sign_or_plus():
    # sums (0, -4): the majority is minus
    experts = [Row([1.0, -2.0]), Row([-1.0, -2.0])]
    found = [wemoe.ties(Row([0.0, 0.0]), experts, 1.0, per=per).row.tolist() for per in ("model", "tensor")]
    assert found == [[-1.0, -2.0], [1.0, -2.0]]


def test_rescaling_gives_each_tensor_the_norm_that_it_had():
    # |3| + |1| = 4; only the 3 is kept
    assert wemoe.ties(Row([0.0, 0.0]), [Row([-3.0, 1.0])], 0.5, rescale=True).row.tolist() == [-4.0, 0.0]
    still = wemoe.ties(Row([1.0, 2.0]), [Row([1.0, 2.0])], 0.5, rescale=True)  # a task vector of zeros has no norm
    assert still.row.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_entries_of_equal_magnitude_are_counted_over_pieces_of_tensors(per):
    """Task vectors of one magnitude: whatever is read at a time, the count is exact, and the first ones are kept."""
    sizes = {"a": 2 * PIECE + 3, "b": 5, "c": PIECE}
    base = {name: torch.zeros(size) for name, size in sizes.items()}
    merged = wemoe.ties(base, [{name: torch.full((size,), -2.0) for name, size in sizes.items()}], 0.5, per=per)
    total = sum(sizes.values()) // 2
    kept = {"a": total, "b": 0, "c": 0} if per == "model" else {name: size // 2 for name, size in sizes.items()}
    for name, tensor in merged.items():
        assert (tensor[: kept[name]] == -2).all()
        assert (tensor[kept[name] :] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "layer"}, "per must be 'model' or 'tensor'; found 'layer'"),
        ({"density": [0.5]}, r"density must hold one number for each expert, \[0, 1, 2\]; found \[0\]"),
        ({"density": [0.5, 0.0, 1.0]}, r"density must be in \(0, 1\]; found 0.0"),
        ({"weights": [1.0, 2.0, torch.nan]}, "weights must be finite numbers; found"),
        ({"density": 0}, r"density must be in \(0, 1\]; found 0"),
        ({"density": 20}, r"density must be in \(0, 1\]; found 20"),
        ({"scaling": torch.inf}, "scaling must be a finite number; found inf"),
        ({"merge_func": "max"}, "merge_func must be 'mean' or 'sum'; found 'max'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        wemoe.ties(ZERO, EXPERTS, **options)
