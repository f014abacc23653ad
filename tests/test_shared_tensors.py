"""What a model holds in several places is saved once, and is one thing again when it is loaded."""

import pytest
import torch
from safetensors.torch import load_file

import wemoe
from models import experts_of, inputs_of, randomised, tiny_bert
from test_upcycling import output
from wemoe.layers import RoutedMLP


@pytest.fixture
def model():
    base = tiny_bert(intermediate_size=32)  # a multiple of 16: packed on a CPU
    return randomised(wemoe.upcycle(base, experts_of(base)))


def mlps(model):
    return [module for module in model.modules() if isinstance(module, RoutedMLP)]


def test_a_router_of_several_layers_stays_one_module(model, tmp_path):
    first, second = mlps(model)
    second.router = first.router
    model.save_pretrained(tmp_path)
    assert not any("layer.1.output.dense.router" in name for name in load_file(tmp_path / "wemoe.safetensors"))
    again = wemoe.from_pretrained(tmp_path)
    mine, other = mlps(again)
    assert mine.router is other.router
    assert len([name for name, p in again.named_parameters() if p.requires_grad]) == 4
    inputs = inputs_of(tiny_bert())
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_one_parameter_in_two_modules_stays_one(model, tmp_path):
    first, second = mlps(model)
    second.router.fc1.weight = first.router.fc1.weight
    model.save_pretrained(tmp_path)
    mine, other = mlps(wemoe.from_pretrained(tmp_path))
    assert mine.router.fc1.weight is other.router.fc1.weight
    assert mine.router.fc1.bias is not other.router.fc1.bias


def test_a_shared_routed_layer_is_saved_once_and_packed_once(model, tmp_path):
    encoder = model.encoder
    encoder.layer[1] = encoder.layer[0]
    model.save_pretrained(tmp_path)
    assert not any("layer.1" in name for name in load_file(tmp_path / "wemoe.safetensors"))
    again = wemoe.from_pretrained(tmp_path)
    assert again.encoder.layer[0] is again.encoder.layer[1]
    assert mlps(again)[0].up.is_packed
    inputs = inputs_of(tiny_bert())
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_a_gathered_state_dict_is_saved_in_place_of_the_models_own(model, tmp_path):
    """With shared modules: under all their names in a state dict, under one in the file."""
    first, second = mlps(model)
    second.router = first.router
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gathered["pooler.dense.bias"].fill_(7)
    model.save_pretrained(tmp_path, state_dict=gathered)
    again = wemoe.from_pretrained(tmp_path)
    assert mlps(again)[0].router is mlps(again)[1].router
    assert again.state_dict().keys() == gathered.keys()
    assert all(torch.equal(tensor, gathered[name]) for name, tensor in again.state_dict().items())


def test_memory_that_is_shared_without_the_models_knowing_is_saved_apart(model, tmp_path):
    first, second = mlps(model)
    second.router.fc1.weight.data = first.router.fc1.weight.data
    model.save_pretrained(tmp_path)
    mine, other = mlps(wemoe.from_pretrained(tmp_path))
    assert torch.equal(mine.router.fc1.weight, other.router.fc1.weight)
