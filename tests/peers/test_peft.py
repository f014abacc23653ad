"""`wemoe.ties` and `wemoe.dare_ties` merge one tensor as PEFT (version 0.21.2) merges those of its adapters."""

import warnings

import pytest
import torch

import wemoe
from points import Row

pytestmark = pytest.mark.peers

TASKS, SIZE = 5, 997


@pytest.fixture(scope="module")
def peer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn, which is not ours to judge
        return pytest.importorskip("peft.utils.merge_utils")


@pytest.fixture
def rows():
    return torch.randn(TASKS, SIZE)


def experts(rows):
    return [Row(row.tolist()) for row in rows]


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 0.9])
def test_ties_agrees(peer, rows, density):
    expected = peer.ties(list(rows), torch.ones(TASKS), density)
    found = wemoe.ties(Row([0.0] * SIZE), experts(rows), density).row.detach()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # sums in another order
    assert torch.equal(found == 0, expected == 0)


def test_electing_without_trimming_agrees(peer, rows):
    stacked = rows.clone()
    expected = peer.disjoint_merge(stacked, peer.calculate_majority_sign_mask(stacked))
    found = wemoe.dare_ties(Row([0.0] * SIZE), experts(rows), density=1.0).row.detach()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # sums in another order
