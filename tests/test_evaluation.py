"""Accuracy per task, and a look at the routing weights."""

import pytest
import torch
from torch import nn

import wemoe


class Threshold(nn.Module):
    """Predicts class 1 above 0; remembers whether it was in training mode."""

    def forward(self, x):
        self.seen_training = self.training
        return torch.stack([-x, x], dim=-1)


def read(model, batch, task):
    return model(batch) if task == "plain" else -model(batch)


BATCHES = [(torch.tensor([1.0, -1.0]), torch.tensor([1, 0])), (torch.tensor([2.0]), torch.tensor([0]))]


def test_accuracy_is_the_share_of_right_answers_over_all_batches():
    model = Threshold().train()
    assert wemoe.evaluate(model, {"plain": BATCHES, "flipped": BATCHES}, read) == {
        "plain": pytest.approx(2 / 3),
        "flipped": pytest.approx(1 / 3),
    }
    assert not model.seen_training
    assert model.training


def test_an_empty_task_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"batches\['plain'\] must hold at least one labelled sample"):
        wemoe.evaluate(Threshold(), {"plain": []}, read)
    with pytest.raises(ValueError, match=r"task 'plain' gave \(2,\) answers for \(1,\) labels"):
        wemoe.evaluate(Threshold(), {"plain": [(torch.ones(2), torch.ones(1))]}, read)
