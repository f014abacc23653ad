"""A PWEMoE has the numbers of FusionBench's (version 0.2.33), with its module in the places of MLPs and attention."""

import copy
import importlib.machinery
import importlib.util
from pathlib import Path

import pytest
import torch

import wemoe
from models import experts_of, inputs_of, randomised, tiny_clip
from wemoe.preference_layers import PreferenceLayer
from wemoe.router_sharing import routers_of

pytestmark = pytest.mark.peers

PREFERENCES = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
PLACES = [f"encoder.layers.{layer}.{kind}" for layer in range(2) for kind in ("self_attn", "mlp")]


@pytest.fixture(scope="module")
def peer():
    package = importlib.machinery.PathFinder.find_spec("fusion_bench")  # other tests put a module of that name in place
    if package is None or package.origin is None:
        pytest.skip("FusionBench is not installed")
    # the package around it imports what the module itself does not need
    file = Path(package.origin).parent / "method/pwe_moe/module.py"
    spec = importlib.util.spec_from_file_location("fusion_bench_pwe_moe", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ParetoWeightEnsemblingModule


def theirs_like(model, peer, base, experts, depth):
    """FusionBench's model of the same base and experts, with the routers of ours."""
    merged = copy.deepcopy(wemoe.task_arithmetic(base, experts, 0.3))
    for place in PLACES:
        parts = [expert.get_submodule(place) for expert in experts.values()]
        module = peer(base.get_submodule(place), parts, init_lambda=0.3, router_hidden_layers=depth)
        layer = next(part for part in model.get_submodule(place).modules() if isinstance(part, PreferenceLayer))
        linears = [layer.router.fc2] if depth == 1 else [layer.router.fc1, layer.router.fc2]
        for own, linear in zip(linears, module.gate[::2], strict=True):
            linear.load_state_dict(own.state_dict())
        merged.set_submodule(place, module)
    return merged


@pytest.mark.parametrize("depth", [1, 2])
def test_outputs_router_gradients_and_plain_models_agree(peer, depth):
    base = tiny_clip()
    experts = experts_of(base)
    options = {"method": "pwemoe", "modules": "mlp+attention", "router_hidden_layers": depth}
    model = randomised(wemoe.upcycle(base, experts, **options))
    theirs, inputs = theirs_like(model, peer, base, experts, depth), inputs_of(base)
    for preference in PREFERENCES:
        wemoe.set_preference(model, preference)
        peer.set_preferenece_vector(theirs, torch.tensor(preference))
        found, expected = model(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state
        # fp32 through two blocks of width 16; task vectors are summed in another order
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad(found.square().mean(), [p for p in model.parameters() if p.requires_grad])
        gates = [theirs.get_submodule(place).gate for place in PLACES]
        wanted = torch.autograd.grad(expected.square().mean(), [p for gate in gates for p in gate.parameters()])
        by_router = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        torch.testing.assert_close(by_router, torch.cat([g.flatten() for g in wanted]).norm(), atol=0, rtol=1e-4)
    plain, unloaded = wemoe.merge_and_unload(model), peer.merge_and_unload(theirs)
    for (name, parameter), (other, expected) in zip(plain.named_parameters(), unloaded.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(parameter, expected, atol=1e-6, rtol=1e-6)


def test_there_are_as_many_trained_numbers(peer):
    base = tiny_clip()
    experts = experts_of(base)
    model = wemoe.upcycle(base, experts, method="pwemoe", modules="mlp+attention")
    theirs = theirs_like(model, peer, base, experts, 2)
    trained = sum(p.numel() for place in PLACES for p in theirs.get_submodule(place).gate.parameters())
    assert sum(p.numel() for router in routers_of(model) for p in router.parameters()) == trained
