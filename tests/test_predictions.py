"""Batches of any nesting: moved, counted and split into their samples."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from wemoe.predictions import check_batches, count_samples, split_samples, to_device


class Pair(NamedTuple):
    inputs: dict[str, Tensor]
    rows: Tensor


def test_batches_of_any_nesting_move_to_the_device():
    batch = {"ids": torch.ones(2), "pair": (torch.zeros(1), [torch.ones(1), "text"])}
    moved = to_device(batch, torch.device("meta"))
    assert moved["ids"].is_meta
    assert moved["pair"][0].is_meta
    assert moved["pair"][1][1] == "text"
    assert not batch["ids"].is_meta


def test_a_batch_splits_into_its_samples():
    pair = Pair({"ids": torch.arange(6).view(3, 2)}, torch.arange(3))
    assert count_samples(pair, "x") == 3
    samples = split_samples((pair, "flag"), "x")
    assert [sample[0].inputs["ids"].tolist() for sample in samples] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [type(sample[0]) for sample in samples] == [Pair] * 3
    assert [sample[1] for sample in samples] == ["flag"] * 3


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [((torch.ones(3), torch.ones(2)), r"\[2, 3\]"), (torch.tensor(1.0), r"\[None\]"), (["text"], r"\[\]")],
)
def test_a_batch_without_one_first_dimension_is_refused(batch, sizes):
    with pytest.raises(ValueError, match=r"batches\['x'\] must hold tensors with one first dimension.* sizes " + sizes):
        count_samples(batch, "x")


@pytest.mark.parametrize(
    ("batches", "examples", "error", "message"),
    [
        ([1], 1, TypeError, "batches must map task names to batches; found list"),
        ({"x": [1]}, 1, ValueError, r"batches for every expert; missing: \['y'\]"),
        ({"x": [1], "y": [1]}, 0, ValueError, "examples must be at least 1; found 0"),
    ],
)
def test_data_that_do_not_fit_the_experts_are_refused(batches, examples, error, message):
    with pytest.raises(error, match=message):
        check_batches(batches, ["x", "y"], examples)
