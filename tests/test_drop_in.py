"""The drop-in layer: state dicts as FusionBench writes them, and the attributes that code written for it touches."""

import copy
import pickle

import pytest
import torch
from torch import nn

import wemoe
from models import experts_of
from test_layers import MLPS, B, D, F, N, T, by_hand, randomise

DEPTHS = [0, 1, 2]
ROUTERS = {0: ["weight"], 1: ["fc.weight", "fc.bias"], 2: ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]}
SHAPES = {"weight": (T,), "fc.weight": (T, D), "fc1.weight": (D, D), "fc1.bias": (D,), "fc2.weight": (T, D)}


def build(mlp="clip", **options):
    base = MLPS[mlp]()
    return wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True, **options)


def published_state(base, experts, depth=2):
    """What FusionBench's class has in its state dict, with a random router."""
    state = {f"gate.{name}": torch.randn(SHAPES.get(name, (T,))) for name in ROUTERS[depth]}
    state |= {f"base_model.{name}": tensor for name, tensor in base.state_dict().items()}
    for t, expert in enumerate(experts):
        for name, tensor in expert.state_dict().items():
            state[f"task_vectors.{t}.{name}"] = tensor - base.state_dict()[name]
    return state


def random_state(mlp="clip", depth=2):
    base = MLPS[mlp]()
    return published_state(base, experts_of(base, T).values(), depth)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("mlp", MLPS)
def test_a_published_state_dict_gives_the_numbers_of_its_module(mlp, depth):
    base = MLPS[mlp]()
    experts = list(experts_of(base, T).values())
    layer = build(mlp, router_hidden_layers=depth)
    layer.load_state_dict(published_state(base, experts, depth))
    hidden = torch.randn(B, N, D)
    expected = by_hand(base, experts, hidden, layer.gate(hidden).expand(B, T))
    # fp32 sums of 16 to 24 terms of the size of the largest output, in another order
    torch.testing.assert_close(layer(hidden), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


def test_experts_may_be_state_dicts():
    base = MLPS["clip"]()
    experts = experts_of(base, T)
    layers = [
        wemoe.WeightEnsemblingMoE(D, base, each, router_hidden_layers=0)
        for each in (experts, {task: expert.state_dict() for task, expert in experts.items()})
    ]
    first, second = (layer.state_dict() for layer in layers)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("broken", ["base", "expert"])
def test_experts_and_base_must_fit_and_be_finite(broken):
    base, narrow = MLPS["clip"](), nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D))
    with pytest.raises(ValueError, match=r"expert_models\['x'\] must have the parameters of base_model; missing"):
        wemoe.WeightEnsemblingMoE(D, base, {"x": narrow})
    expert = copy.deepcopy(base)
    nn.init.constant_((base if broken == "base" else expert).fc2.bias, torch.nan)
    label = "base_model" if broken == "base" else r"expert_models\['task_0'\]"
    with pytest.raises(ValueError, match=rf"{label} must hold finite numbers; .* 'fc2.bias'"):
        wemoe.WeightEnsemblingMoE(D, base, [expert])


def test_loading_leaves_the_state_dict_as_it_is():
    state = random_state()
    before = dict(state)
    build().load_state_dict(state)
    assert list(state) == list(before)
    assert all(state[name] is tensor for name, tensor in before.items())


def test_a_layer_is_loaded_as_part_of_a_model():
    """Two layers and a head: the state dict holds the published names of both, under the model's own prefixes."""
    model = nn.ModuleDict({"layers": nn.ModuleList([build(), build("vit")]), "head": nn.Linear(D, 2)})
    states = [random_state(), random_state("vit")]
    head = nn.Linear(D, 2)
    whole = {f"layers.{i}.{name}": tensor for i, state in enumerate(states) for name, tensor in state.items()}
    model.load_state_dict(whole | {f"head.{name}": tensor for name, tensor in head.state_dict().items()})
    for layer, state in zip(model["layers"], states, strict=True):
        assert torch.equal(layer.gate.fc1.weight, state["gate.fc1.weight"])
        assert torch.equal(layer.base_model.fc2.weight, state["base_model.fc2.weight"])
        for t, task_vector in enumerate(layer.task_vectors):
            assert torch.equal(task_vector.fc1.bias, state[f"task_vectors.{t}.fc1.bias"])
    assert torch.equal(model["head"].weight, head.weight)


@pytest.mark.parametrize("frozen", [["fc1.weight"], ["fc1.bias", "fc2.bias"], None])
def test_parameters_without_any_task_vector_have_zeros(frozen):
    """FusionBench deletes the task vectors of parameters that do not require gradients; None: of all."""
    state = random_state()
    names = [name for name in state if name.startswith("task_vectors.")]
    deleted = [name for name in names if frozen is None or name.endswith(tuple(frozen))]
    zeros = {name: torch.zeros_like(state[name]) for name in deleted}
    lacking, explicit = build(), build()
    lacking.load_state_dict({name: tensor for name, tensor in state.items() if name not in deleted})
    explicit.load_state_dict(state | zeros)
    hidden = torch.randn(B, N, D)
    assert torch.equal(lacking(hidden), explicit(hidden))


def changed(state, without=(), added=()):
    return {name: tensor for name, tensor in state.items() if name not in without} | dict.fromkeys(added, torch.ones(1))


@pytest.mark.parametrize("prefix", ["", "block.mlp."])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": ["gate.fc1.bias"]}, 'Missing key(s) in state_dict: "{}gate.fc1.bias".'),
        ({"without": ["base_model.fc2.weight"]}, 'Missing key(s) in state_dict: "{}base_model.fc2.weight".'),
        ({"without": ["task_vectors.2.fc1.bias"]}, 'Missing key(s) in state_dict: "{}task_vectors.2.fc1.bias".'),
        ({"added": ["task_vectors.4.fc1.bias"]}, 'Unexpected key(s) in state_dict: "{}task_vectors.4.fc1.bias".'),
        ({"added": ["gate.fc3.bias"]}, 'Unexpected key(s) in state_dict: "{}gate.fc3.bias".'),
        ({"added": ["mlp.up.bias"]}, 'Unexpected key(s) in state_dict: "{}mlp.up.bias".'),
        (
            {"without": ["task_vectors.2.fc1.bias"], "added": ["task_vectors.2.fc1.bias"]},
            "size mismatch for {}task_vectors.2.fc1.bias: the shape must be (24,); found (1,)",
        ),
    ],
)
def test_whatever_does_not_fit_is_named_as_it_is_published(prefix, change, message):
    layer = build()
    model = nn.ModuleDict({"block": nn.ModuleDict({"mlp": layer})}) if prefix else layer
    state = {f"{prefix}{name}": tensor for name, tensor in changed(random_state(), **change).items()}
    with pytest.raises(RuntimeError) as refused:
        model.load_state_dict(state)
    (line,) = str(refused.value).splitlines()[1:]  # this fault, and no other that follows from it
    assert line.strip() == message.format(prefix)


def test_another_depth_is_refused():
    with pytest.raises(RuntimeError, match=r'Missing key.*"gate.fc1.weight"(?s:.*)Unexpected key.*"gate.fc.weight"'):
        build(router_hidden_layers=2).load_state_dict(random_state(depth=1))


def test_what_is_missing_keeps_its_value_where_that_is_allowed():
    layer, state = build(), random_state()
    before = layer.state_dict()
    lacking = changed(state, without=["gate.fc1.bias", "task_vectors.2.fc1.bias"])
    faults = layer.load_state_dict(lacking, strict=False)
    assert faults.missing_keys == ["gate.fc1.bias", "task_vectors.2.fc1.bias"]
    assert torch.equal(layer.gate.fc1.bias, before["mlp.router.fc1.bias"])
    assert torch.equal(layer.task_vectors[2].fc1.bias, before["mlp.up.task_biases"][2])
    assert torch.equal(layer.task_vectors[1].fc1.bias, state["task_vectors.1.fc1.bias"])


@pytest.mark.parametrize("depth", DEPTHS)
def test_our_own_state_dict_is_loaded_too(depth):
    layer, other = (build(router_hidden_layers=depth) for _ in range(2))
    randomise(other.gate)
    layer.load_state_dict(other.state_dict())
    hidden = torch.randn(B, N, D)
    assert torch.equal(layer(hidden), other(hidden))


def test_batch_reduce_set_on_the_layer_takes_effect():
    layer = build(batch_reduce=True)
    randomise(layer.gate)
    hidden = torch.randn(B, N, D)
    averaged = layer(hidden)
    layer.batch_reduce = False
    per_sample = layer(hidden)
    torch.testing.assert_close(per_sample[:1], layer(hidden[:1]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(per_sample, averaged, atol=1e-3)
    layer.batch_reduce = True
    assert torch.equal(layer(hidden), averaged)


def test_sizes_and_the_gate_are_to_be_read():
    layer = build()
    assert (layer.hidden_size, layer.num_experts, layer.batch_first, layer.batch_reduce) == (D, T, True, False)
    assert layer.gate is layer.mlp.router
    assert [name for name, _ in layer.gate.named_parameters()] == ROUTERS[2]


@pytest.mark.parametrize("mlp", MLPS)
def test_the_base_and_the_task_vectors_are_modules_of_the_bases_class(mlp):
    base = MLPS[mlp]().eval()
    experts = list(experts_of(base, T).values())
    layer = wemoe.WeightEnsemblingMoE(D, base, experts)
    hidden = torch.randn(B, N, D)
    assert torch.equal(layer.base_model(hidden), base(hidden))
    assert len(layer.task_vectors) == T
    for task_vector, expert in zip(layer.task_vectors, experts, strict=True):
        assert type(task_vector) is type(base)
        for name, parameter in task_vector.named_parameters():
            assert torch.equal(parameter, expert.get_parameter(name) - base.get_parameter(name))
            assert not parameter.requires_grad


def test_changing_what_was_read_does_not_change_the_layer():
    layer = build("clip")
    hidden = torch.randn(B, N, D)
    before = layer(hidden)
    for module in (layer.base_model, layer.task_vectors):
        for parameter in module.parameters():
            parameter.data.zero_()
    assert torch.equal(layer(hidden), before)


@pytest.mark.parametrize("name", ["gate", "base_model", "task_vectors", "num_experts", "hidden_size"])
def test_what_can_only_be_read_is_not_set_in_silence(name):
    with pytest.raises(AttributeError, match=f"{name} of a WeightEnsemblingMoE can be read and not set"):
        setattr(build(), name, nn.Linear(D, F))


def test_copies_and_pickles_are_equal():
    layer = build()
    hidden = torch.randn(B, N, D)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(hidden), layer(hidden))
        assert torch.equal(twin.base_model(hidden), layer.base_model(hidden))


def test_the_weights_are_held_once():
    """What the properties are built from takes no memory."""
    layer = build()
    assert sum(p.numel() for p in layer.parameters()) == (T + 1) * (2 * D * F + D + F) + D * D + D + D * T + T
    assert all(p.is_meta for p in layer._shell[0].parameters())
