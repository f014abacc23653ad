"""Anchored answers: an expert's probabilities and those of the start of the adaptation, geometrically mixed."""

import pytest
import torch

from wemoe.adaptation import anchor_to_start


def some(seed, samples=50, classes=4):
    return torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


def test_by_hand_probabilities_are_multiplied():
    expert, start = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log()
    torch.testing.assert_close(anchor_to_start(expert, start, 0.5).softmax(-1), torch.tensor([[0.5, 0.5]]))
    # 0.8 ** 0.75 * 0.2 ** 0.25 and the other way round are as 2 to 1
    torch.testing.assert_close(anchor_to_start(expert, start, 0.25).softmax(-1), torch.tensor([[2 / 3, 1 / 3]]))


def test_a_share_of_nothing_leaves_the_expert_as_it_is():
    assert torch.equal(anchor_to_start(some(0), some(1), 0.0), some(0))


def test_nothing_is_nearer_to_both():
    expert, start, share = some(0).double(), some(1).double(), 0.35

    def distance(p):
        return sum(
            weight * (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum()
            for weight, q in ((1 - share, expert), (share, start))
        )

    mixed = anchor_to_start(expert, start, share)
    least = distance(mixed)
    assert all(distance(mixed + 0.01 * some(seed).double()) > least for seed in range(2, 12))


def test_what_is_added_to_all_classes_of_a_sample_does_not_matter():
    shifts = torch.arange(50.0)[:, None]
    mixed, shifted = anchor_to_start(some(0), some(1)), anchor_to_start(some(0), some(1) + shifts)
    torch.testing.assert_close(shifted.softmax(-1), mixed.softmax(-1), atol=1e-5, rtol=0)  # of numbers up to 50 in fp32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_stays_and_nothing_is_changed_in_place(dtype):
    expert, start = some(0).to(dtype), some(1)
    assert anchor_to_start(expert, start).dtype == dtype
    assert torch.equal(expert, some(0).to(dtype))
    assert torch.equal(start, some(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": torch.zeros(4, 3)}, r"logits and start must both be \[S, C\]; found \[4, 2\] and \[4, 3\]"),
        ({"logits": torch.zeros(4), "start": torch.zeros(4)}, r"found \[4\] and \[4\]"),
        ({"start": torch.full((4, 2), torch.inf)}, "logits and start must be finite"),
        ({"share": 1.0}, "share must be from 0 to below 1; found 1.0"),
        ({"share": -0.1}, "share must be from 0 to below 1; found -0.1"),
    ],
)
def test_what_is_wrong_is_told(change, message):
    arguments = {"logits": torch.zeros(4, 2), "start": torch.zeros(4, 2), "share": 0.35} | change
    with pytest.raises(ValueError, match=message):
        anchor_to_start(**arguments)
