"""Accuracy per task, and a look at the routing weights."""

import pytest
import torch
from torch import nn

import wemoe
from models import experts_of, inputs_of, tiny_bert


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


@pytest.mark.parametrize(("depth", "routes"), [(0, 1), (2, 3)])
def test_routing_weights_are_recorded_call_by_call(depth, routes):
    base = tiny_bert()
    model = wemoe.upcycle(base, experts_of(base), router_hidden_layers=depth)
    inputs = inputs_of(base, batch=3)
    with wemoe.record_routing(model) as routing:
        model(**inputs)
        model(**inputs)
    assert list(routing) == ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]
    assert all(len(calls) == 2 and calls[0].shape == (routes, 3) for calls in routing.values())
    model(**inputs)
    assert all(len(calls) == 2 for calls in routing.values())


def test_a_plain_model_has_no_routing_weights():
    with (
        pytest.raises(ValueError, match="model must hold routed MLPs; found none in BertModel"),
        wemoe.record_routing(tiny_bert()),
    ):
        pass
