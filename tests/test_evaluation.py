"""Accuracy per task, and a look at the routing weights."""

import pytest
import torch
from torch import nn

import wemoe
from tiny_suite import tiny_suite
from wemoe.data.batches import Batch
from wemoe.evaluation import Predicted, mean_losses, predict_all


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


def mean_answer(model, pair, task):
    """A loss that is known by hand: the mean of the batch."""
    batch, _ = pair
    return read(model, batch, task)[:, 1].mean()


def test_a_mean_loss_is_over_samples_and_not_over_batches():
    model = Threshold().train()
    batches = [(torch.tensor([1.0, 3.0, 5.0]), torch.zeros(3)), (torch.tensor([7.0]), torch.zeros(1))]
    # (1 + 3 + 5 + 7) / 4; the mean of the batches' means would be 5
    assert mean_losses(model, {"plain": batches, "flipped": batches}, mean_answer) == {"plain": 4.0, "flipped": -4.0}
    assert not model.seen_training
    assert model.training
    with pytest.raises(ValueError, match=r"batches\['plain'\] must hold at least one labelled sample"):
        mean_losses(model, {"plain": []}, mean_answer)


def test_an_empty_task_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"batches\['plain'\] must hold at least one labelled sample"):
        wemoe.evaluate(Threshold(), {"plain": []}, read)
    with pytest.raises(ValueError, match=r"task 'plain' gave \(2,\) answers for \(1,\) labels"):
        wemoe.evaluate(Threshold(), {"plain": [(torch.ones(2), torch.ones(1))]}, read)


def test_predictions_are_in_the_samples_order_with_their_accuracy_and_counts():
    model = Threshold().train()
    batches = [
        (Batch({"x": torch.tensor([1.0, -1.0])}, torch.tensor([2, 0])), torch.tensor([1, 0])),
        (Batch({"x": torch.tensor([2.0])}, torch.tensor([1])), torch.tensor([0])),
    ]
    found = predict_all(model, {"plain": batches}, lambda model, batch, task: read(model, batch.inputs["x"], task))
    assert found["plain"].classes.tolist() == [0, 1, 1]
    assert found["plain"].labels.tolist() == [0, 0, 1]
    assert found["plain"].counts == [1, 2]
    assert found["plain"].accuracy == pytest.approx(2 / 3)
    assert not model.seen_training
    assert model.training
    with pytest.raises(ValueError, match=r"batches\['plain'\] must hold at least one labelled sample"):
        predict_all(model, {"plain": []}, read)


def test_a_class_that_is_never_predicted_is_counted():
    assert Predicted(torch.tensor([2, 0, 2]), torch.zeros(3), num_classes=4).counts == [1, 0, 2, 0]


def test_a_suites_predictions_have_the_accuracy_that_it_scores():
    suite = tiny_suite()
    for model in (suite.base, suite.experts["colours"]):
        found = suite.predictions(model)
        assert {task: each.accuracy for task, each in found.items()} == suite.score(model)
        for task, each in found.items():
            assert torch.equal(each.labels, suite.tasks[task].test.labels)
            assert sum(each.counts) == len(each.classes) == 24
