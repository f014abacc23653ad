"""Looking into routed models: recorded routing weights, their summary, and what print and repr tell."""

import json

import pytest
import torch
from torch import nn

import wemoe
from models import experts_of, inputs_of, tiny_bert
from wemoe.layers import RoutedMLP

LAYERS = ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]


def routed_bert(**options):
    base = tiny_bert()
    model = wemoe.upcycle(base, experts_of(base), **options)
    for module in model.modules():
        if isinstance(module, RoutedMLP):
            for parameter in module.router.parameters():
                nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("depth", [0, 2])
def test_routing_weights_are_recorded_call_by_call(depth):
    model = routed_bert(router_hidden_layers=depth)
    inputs = inputs_of(model, batch=3)
    with wemoe.record_routing(model) as routing:
        model(**inputs)
        model(**inputs)
    assert list(routing) == LAYERS
    assert all(len(calls) == 2 and calls[0].shape == (3, 3) for calls in routing.values())
    model(**inputs)
    assert all(len(calls) == 2 for calls in routing.values())


@pytest.mark.parametrize(("options", "equal"), [({}, False), ({"batch_reduce": True}, True)])
def test_what_is_recorded_is_what_is_used(options, equal):
    """Averaged over the batch, all samples have the mean of what they would have alone."""
    model = routed_bert(**options)
    inputs = inputs_of(model, batch=3)
    with wemoe.record_routing(model) as alone:
        for b in range(3):
            model(**{name: value[b : b + 1] for name, value in inputs.items()})
    with wemoe.record_routing(model) as routing:
        model(**inputs)
    rows, single = routing[LAYERS[0]][0], torch.cat(alone[LAYERS[0]])  # of the first layer, which sees the same inputs
    expected = single.mean(dim=0).expand(3, -1) if equal else single
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_a_drop_in_layer_is_recorded_whatever_its_layout():
    base = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
    layer = wemoe.WeightEnsemblingMoE(16, base, experts_of(base))
    with wemoe.record_routing(layer) as routing:
        layer(torch.randn(5, 2, 16))  # [N, B, D]
    assert [call.shape for call in routing["mlp"]] == [(2, 3)]


def test_a_plain_model_has_no_routing_weights():
    with (
        pytest.raises(ValueError, match="model must hold routed MLPs; found none in BertModel"),
        wemoe.record_routing(tiny_bert()),
    ):
        pass


RECORDED = {
    "cats": {"0": [torch.tensor([[0.9, 0.1], [0.5, 0.3]])], "1": [torch.tensor([[0.2, 0.4]] * 2)]},
    "dogs": {"0": [torch.tensor([[0.1, 0.3]]), torch.tensor([[0.3, 0.1]])], "1": [torch.tensor([[-0.2, 0.4]] * 2)]},
}


def test_a_summary_tells_means_and_first_choices_by_name():
    summary = wemoe.summarise_routing(RECORDED, ["cat expert", "dog expert"])
    assert (summary.tasks, summary.layers) == (("cats", "dogs"), ("0", "1"))
    assert summary.weights["dogs"]["0"].tolist() == torch.tensor([[0.1, 0.3], [0.3, 0.1]]).tolist()  # calls in order
    told = json.loads(json.dumps(summary.as_dict()))
    assert told["samples"] == {"cats": 2, "dogs": 2}
    assert told["mean"]["cats"]["0"] == pytest.approx({"cat expert": 0.7, "dog expert": 0.2})
    assert told["mean"]["dogs"]["1"] == pytest.approx({"cat expert": -0.2, "dog expert": 0.4})
    assert told["first_choice"]["cats"] == {
        "0": {"cat expert": 1, "dog expert": 0},
        "1": {"cat expert": 0, "dog expert": 1},
    }
    assert told["first_choice"]["dogs"]["0"] == {"cat expert": 0.5, "dog expert": 0.5}


def test_a_models_own_records_are_summarised():
    model = routed_bert()
    routing = {}
    for task in ("first", "second"):
        with wemoe.record_routing(model) as routing[task]:
            for _ in range(2):
                model(**inputs_of(model, batch=3))
    summary = wemoe.summarise_routing(routing, model.routing_config.tasks)
    assert summary.experts == ("task0", "task1", "task2")
    assert summary.mean().shape == summary.first_choice().shape == (2, 2, 3)
    assert summary.as_dict()["samples"] == {"first": 6, "second": 6}
    gathered = torch.cat(routing["second"][LAYERS[1]]).mean(dim=0)
    torch.testing.assert_close(summary.mean()[1, 1], gathered)
    assert torch.equal(summary.first_choice().sum(dim=-1), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("routing", "experts", "message"),
    [
        ({}, ["a", "b"], "routing must hold the records of at least one task; found none"),
        ({"cats": {"0": []}}, ["a", "b"], r"routing\['cats'\]\['0'\] must hold at least one sample; found none"),
        (RECORDED | {"cows": {"0": []}}, ["a", "b"], "the same layers for every task; found others for 'cows'"),
        (RECORDED, ["a"], r"experts must name each of the 2 experts of routing\['cats'\]\['0'\]; found 1"),
    ],
)
def test_what_cannot_be_summarised_is_named(routing, experts, message):
    with pytest.raises(ValueError, match=message):
        wemoe.summarise_routing(routing, experts)


def test_trainable_parameters_are_printed_as_peft_does(capsys):
    model = routed_bert()
    model.print_trainable_parameters()
    trained = 2 * (16 * 16 + 16 + 16 * 3 + 3)  # two routers of depth 2
    everything = tiny_bert().num_parameters() + 2 * 3 * (2 * 16 * 24 + 16 + 24) + trained
    line = (
        f"trainable params: {trained:,} || all params: {everything:,} || trainable%: {100 * trained / everything:.4f}\n"
    )
    assert capsys.readouterr().out == line


def test_a_models_repr_is_short_and_tells_how_it_was_made():
    text = repr(routed_bert())
    assert text.splitlines()[1].strip() == (
        "tasks=['task0', 'task1', 'task2'], router_hidden_layers=2, init_lambda=0.3, batch_reduce=False"
    )
    assert "(0-1): 2 x BertLayer(" in text  # blocks alike are shown once
    assert (
        "RoutedLinear(in_features=24, out_features=16, tasks=3, bias=True, packed=True, dtype=torch.float32, "
        "task_vectors=torch.float32)"
    ) in text
