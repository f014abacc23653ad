"""Device maps: a model on one device, or spread over several with accelerate."""

import sys

import accelerate
import pytest
import torch

import wemoe
from models import experts_of, inputs_of, randomised, tiny_bert
from test_upcycling import output
from wemoe.device_maps import device_of
from wemoe.layers import RoutedMLP
from wemoe.packed_layers import PackedLinear
from wemoe.routed_methods import ROUTED_METHODS


@pytest.fixture(params=ROUTED_METHODS)
def model(request):
    base = tiny_bert(intermediate_size=32)  # a multiple of 16: packed on a CPU
    return randomised(wemoe.upcycle(base, experts_of(base), method=request.param))


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


def mlps(model):
    return [module for module in model.modules() if isinstance(module, RoutedMLP)]


@pytest.mark.parametrize("device_map", ["cpu", torch.device("cpu"), {"": "cpu"}, "auto", "balanced", "sequential"])
def test_a_model_is_loaded_to_a_device_or_spread_over_those_that_are_there(saved, model, device_map):
    again = wemoe.from_pretrained(saved, device_map=device_map)
    inputs = inputs_of(tiny_bert())
    assert {p.device.type for p in again.parameters()} == {"cpu"}
    assert torch.equal(output(again, inputs), output(model, inputs))
    assert all(mlp.up.is_packed for mlp in mlps(again))


PARTS = {"embeddings": "cpu", "encoder.layer.0": "cpu", "encoder.layer.1": "meta", "pooler": "meta"}


def test_every_tensor_is_loaded_straight_to_its_device(saved, monkeypatch):
    """The meta device stands for a second one; what moves the activations is accelerate's own."""
    dispatched = []
    monkeypatch.setattr(accelerate, "dispatch_model", lambda model, places, **_: dispatched.append(places))
    again = wemoe.from_pretrained(saved, device_map=PARTS)
    assert dispatched == [PARTS]
    assert len(dict(again.named_parameters())) == len(dict(wemoe.from_pretrained(saved).named_parameters()))
    for name, tensor in [*again.named_parameters(), *again.named_buffers()]:
        assert tensor.device == device_of(name, PARTS)
    assert not any(mlp.up.is_packed for mlp in mlps(again))  # accelerate moves weights in their plain shapes


def test_accelerates_hooks_leave_the_outputs_as_they_are(saved, model):
    inputs = inputs_of(tiny_bert())
    hooked = accelerate.dispatch_model(wemoe.from_pretrained(saved), {"": "cpu"}, "cpu", force_hooks=True)
    assert torch.equal(output(hooked, inputs), output(model, inputs))
    offloaded = wemoe.from_pretrained(saved)
    for module in offloaded.modules():
        if isinstance(module, PackedLinear):
            module.unpack()
    # its parameters are read where it merges them, not by the forwards of its parts
    accelerate.cpu_offload(offloaded, execution_device="cpu", preload_module_classes=["PreferenceLayer"])
    assert torch.equal(output(offloaded, inputs), output(model, inputs))
    with pytest.raises(ValueError, match=r"must be in memory to be saved; on the meta device: \['embeddings"):
        offloaded.save_pretrained(saved)


def test_blocks_are_never_split(saved, monkeypatch):
    asked = {}
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda model, **how: asked.update(how) or {"": "cpu"})
    wemoe.from_pretrained(saved, device_map="auto")
    assert asked["no_split_module_classes"] == ["BertLayer"]
    assert asked["max_memory"]


@pytest.mark.parametrize(
    ("device_map", "error", "message"),
    [
        (3.5, TypeError, "device_map must be a device, one of .* or a mapping .*; found 3.5"),
        (True, TypeError, "device_map must be a device"),
        ("no device", ValueError, "must name devices that are there; found 'no device'"),
        ({"": "cuda:99"}, ValueError, "must name devices that are there; found 'cuda:99' for ''"),
        ({"": "disk"}, ValueError, "must keep the model in memory; '' goes to the disk"),
        ({"encoder": "cpu"}, ValueError, r"must give every tensor a device; it gives none to \['embeddings"),
    ],
)
def test_a_device_map_that_does_not_fit_is_refused(saved, device_map, error, message):
    with pytest.raises(error, match=message):
        wemoe.from_pretrained(saved, device_map=device_map)


def test_without_accelerate_the_error_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    wemoe.from_pretrained(saved, device_map="cpu")
    with pytest.raises(ImportError, match=r"pip install wemoe\[accelerate\]"):
        wemoe.from_pretrained(saved, device_map="auto")
