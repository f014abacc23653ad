"""Class shares: an expert's predictions are spread over the classes where they are implausible, else left alone."""

import pytest
import torch

from wemoe.adaptation import hold_class_shares

HALVES = torch.tensor([0.5, 0.5])


def mean_probabilities(logits):
    return logits.double().softmax(-1).mean(0)


def slid(samples=400, classes=4, by=6.0, seed=0):
    """Logits that tell balanced classes apart, and these with one class preferred on every sample; the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    sound = torch.randn(samples, classes, generator=generator)
    sound[torch.arange(samples), labels] += 4
    preferred = torch.zeros(classes)
    preferred[1] = by
    return sound, sound + preferred, labels


def test_by_hand_the_rarer_of_two_classes_comes_up_to_its_bound():
    logits = torch.tensor([[3.0, 0.0], [3.0, 0.0]])  # both samples alike, so any mean is a shift away
    held = hold_class_shares(logits, HALVES, tolerance=1.5)
    torch.testing.assert_close(held.softmax(-1)[0], torch.tensor([2 / 3, 1 / 3]), atol=1e-3, rtol=0)  # 0.5 / 1.5


def test_plausible_predictions_are_the_very_same():
    sound, _, _ = slid()
    assert hold_class_shares(sound, torch.ones(4)) is sound


def test_every_class_ends_within_its_bounds():
    shares = torch.tensor([0.4, 0.1, 0.3, 0.2])
    found = mean_probabilities(hold_class_shares(slid()[1], shares, tolerance=1.2)) / shares
    assert found.min() >= 1 / 1.2 * (1 - 2e-3)  # bounds are met to a thousandth
    assert found.max() <= 1.2 * (1 + 2e-3)


def test_an_expert_that_slid_into_one_class_is_right_again():
    sound, preferring, labels = slid()
    held = hold_class_shares(preferring, torch.ones(4), tolerance=1.1)
    right = [float((each.argmax(-1) == labels).double().mean()) for each in (sound, preferring, held)]
    assert right[1] < 0.5 < right[0] - 0.02 < right[2]


def test_all_samples_are_shifted_alike():
    _, preferring, _ = slid()
    shift = hold_class_shares(preferring, torch.ones(4)) - preferring
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)  # sums in fp32
    assert shift[0, 1] < 0


def test_shares_may_be_counts_and_the_order_of_classes_does_not_matter():
    _, preferring, _ = slid()
    shares, order = torch.tensor([4, 1, 3, 2]), torch.tensor([2, 0, 3, 1])
    held = hold_class_shares(preferring, shares)
    torch.testing.assert_close(hold_class_shares(preferring, shares / 10), held)
    torch.testing.assert_close(hold_class_shares(preferring[:, order], shares[order]), held[:, order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_stays_and_nothing_is_changed_in_place(dtype):
    preferring = slid()[1].to(dtype)
    before = preferring.clone()
    assert hold_class_shares(preferring, torch.ones(4)).dtype == dtype
    assert torch.equal(preferring, before)


def test_a_class_that_is_never_predicted_does_not_make_it_infinite():
    logits = torch.tensor([[2000.0, 0.0, 0.0]]).expand(8, 3)
    torch.testing.assert_close(
        mean_probabilities(hold_class_shares(logits, torch.ones(3))),
        torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64),
        atol=2e-3,
        rtol=0,
    )


def test_logits_that_are_too_far_apart_are_told_of():
    generator = torch.Generator().manual_seed(0)
    logits = 1000 * torch.randn(19, 6, generator=generator)
    with pytest.warns(UserWarning, match=r"times beyond its bounds after 1000 rounds; logits are up to .* apart"):
        held = hold_class_shares(logits, torch.tensor([1.0, 1, 1, 1, 1, 95]), tolerance=1.1)
    assert held.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(0, 2)}, r"logits must be \[S, C\] of one sample or more.*found \[0, 2\] and \[2\]"),
        ({"logits": torch.zeros(2)}, r"found \[2\] and \[2\]"),
        ({"shares": torch.ones(3)}, r"shares \[C\]; found \[4, 2\] and \[3\]"),
        ({"logits": torch.full((4, 2), torch.nan)}, "logits must be finite"),
        ({"shares": torch.tensor([1.0, 0.0])}, r"shares must be above 0 and finite; found \[1.0, 0.0\]"),
        ({"tolerance": 1.0}, "tolerance must be above 1 and finite; found 1.0"),
    ],
)
def test_what_is_wrong_is_told(change, message):
    arguments = {"logits": torch.zeros(4, 2), "shares": HALVES, "tolerance": 1.5} | change
    with pytest.raises(ValueError, match=message):
        hold_class_shares(**arguments)
