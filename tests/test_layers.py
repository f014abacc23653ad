"""The routed layer: the numbers of a loop over samples, whatever the layout, the depth and the reduction."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import CLIPVisionConfig, GPT2Config, LlamaConfig, Phi3Config, ViTConfig
from transformers.models.clip.modeling_clip import CLIPMLP
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.vit.modeling_vit import ViTMLP

import wemoe
from models import experts_of
from wemoe.layers import RoutedLinear, RoutedMLP
from wemoe.mlp_search import find_mlp_parts
from wemoe.routing_scope import RoutingScope
from wemoe.task_vectors import stack_task_vectors

B, N, D, F, T = 3, 5, 16, 24, 4


class TwoLinears(nn.Module):
    """A plain MLP that keeps its activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(F, D)
        self.first = nn.Linear(D, F)
        self.act = torch.nn.functional.silu

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class Functional(TwoLinears):
    """A plain MLP that calls its activation inside its forward."""

    def forward(self, x):
        return self.second(torch.nn.functional.relu(self.first(x)))


SIZES = {"hidden_size": D, "intermediate_size": F, "num_attention_heads": 2}
MLPS = {
    "clip": lambda: CLIPMLP(CLIPVisionConfig(**SIZES)),
    "vit": lambda: ViTMLP(ViTConfig(**SIZES)),
    "sequential": lambda: nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Dropout(0.5), nn.Linear(F, D)),
    "two linears": TwoLinears,
    "functional": Functional,
    "gated": lambda: LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=F, num_attention_heads=2)),
    "gate fused": lambda: Phi3MLP(
        Phi3Config(hidden_size=D, intermediate_size=F, num_attention_heads=2, pad_token_id=0)
    ),
    "conv1d": lambda: GPT2MLP(F, GPT2Config(n_embd=D, resid_pdrop=0.0)),
    "no bias": lambda: nn.Sequential(nn.Linear(D, F, bias=False), nn.ReLU(), nn.Linear(F, D, bias=False)),
}


def by_hand(base, experts, hidden, routing_weights):
    """One forward for each sample, with weights merged by hand. hidden [B, N, D], routing_weights [B, T]."""
    outputs = []
    for sample, weights in zip(hidden, routing_weights, strict=True):
        merged = {
            name: theta
            + sum(w * (expert.state_dict()[name] - theta) for w, expert in zip(weights, experts, strict=True))
            for name, theta in base.state_dict().items()
        }
        outputs.append(functional_call(base.eval(), merged, (sample.unsqueeze(0),)))
    return torch.cat(outputs)


def randomise(router):
    for parameter in router.parameters():
        nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("mlp", MLPS)
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("batch_reduce", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_sample_has_its_own_weights(mlp, depth, batch_reduce, batch_first):
    base = MLPS[mlp]()
    experts = experts_of(base, T)
    layer = wemoe.WeightEnsemblingMoE(
        D, base, experts, batch_first=batch_first, router_hidden_layers=depth, batch_reduce=batch_reduce
    )
    randomise(layer.mlp.router)
    hidden = torch.randn(B, N, D)
    routing_weights = layer.mlp.router(hidden)
    if batch_reduce:
        routing_weights = routing_weights.mean(dim=0, keepdim=True)
    expected = by_hand(base, list(experts.values()), hidden, routing_weights.expand(B, T))

    found = layer(hidden) if batch_first else layer(hidden.transpose(0, 1)).transpose(0, 1)

    # fp32 sums of 16 to 24 terms of size 1, in another order; the promise to users
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_router_gradients_are_those_of_the_loop(depth):
    base = MLPS["clip"]()
    experts = experts_of(base, T)
    layer = wemoe.WeightEnsemblingMoE(D, base, experts, batch_first=True, router_hidden_layers=depth)
    randomise(layer.mlp.router)
    hidden = torch.randn(B, N, D, requires_grad=True)
    weight = torch.randn(B, N, D)
    inputs = [hidden, *layer.mlp.router.parameters()]
    routing_weights = layer.mlp.router(hidden).expand(B, T)
    expected = torch.autograd.grad(
        (by_hand(base, list(experts.values()), hidden, routing_weights) * weight).sum(), inputs
    )
    found = torch.autograd.grad((layer(hidden) * weight).sum(), inputs)
    for name, mine, theirs in zip(["hidden", *dict(layer.mlp.router.named_parameters())], found, expected, strict=True):
        scale = theirs.abs().max().item()
        # fp32: two ways to sum a few hundred terms, relative to the largest gradient
        torch.testing.assert_close(mine, theirs, atol=1e-5 * scale, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_only_the_router_requires_gradients():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T))
    trained = [name for name, p in layer.named_parameters() if p.requires_grad]
    assert trained == ["mlp.router.fc1.weight", "mlp.router.fc1.bias", "mlp.router.fc2.weight", "mlp.router.fc2.bias"]


def test_arguments_stay_untouched_and_their_flags_do_not_matter():
    base = MLPS["clip"]()
    experts = experts_of(base, T)
    before = copy.deepcopy([base, *experts.values()])
    layer = wemoe.WeightEnsemblingMoE(D, base, experts, router_hidden_layers=0)
    frozen = wemoe.WeightEnsemblingMoE(
        D,
        copy.deepcopy(base).requires_grad_(False),
        {task: copy.deepcopy(e).requires_grad_(False) for task, e in experts.items()},
        router_hidden_layers=0,
    )
    for then, now in zip(before, [base, *experts.values()], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(then.parameters(), now.parameters(), strict=True))
        assert all(p.requires_grad for p in now.parameters())
    hidden = torch.randn(N, B, D)
    assert torch.equal(layer(hidden), frozen(hidden))


@pytest.mark.parametrize("expert", range(T))
def test_a_one_hot_routing_weight_is_the_expert_and_zeros_are_the_base(expert):
    base = MLPS["vit"]()
    experts = experts_of(base, T)
    layer = wemoe.WeightEnsemblingMoE(D, base, experts, batch_first=True, router_hidden_layers=0)
    hidden = torch.randn(B, N, D)
    layer.mlp.router.weight.data = torch.zeros(T)
    torch.testing.assert_close(layer(hidden), base(hidden), atol=1e-5, rtol=1e-5)
    layer.mlp.router.weight.data[expert] = 1
    torch.testing.assert_close(layer(hidden), experts[f"task{expert}"](hidden), atol=1e-5, rtol=1e-5)


def test_a_sample_does_not_depend_on_its_batch():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True)
    randomise(layer.mlp.router)
    hidden = torch.randn(B, N, D)
    for b in range(B):
        torch.testing.assert_close(layer(hidden)[b : b + 1], layer(hidden[b : b + 1]), atol=1e-5, rtol=1e-5)


def test_a_token_mask_keeps_padding_out_of_the_routing():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True)
    randomise(layer.mlp.router)
    short = torch.randn(1, N, D)
    padded = torch.cat([short, torch.full((1, N, D), 9.0)], dim=1)
    with RoutingScope(torch.arange(2 * N).unsqueeze(0) < N):
        found = layer(padded)[:, :N]
    torch.testing.assert_close(found, layer(short), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer(padded)[:, :N], layer(short), atol=1e-3)  # unmasked, padding votes


def test_an_empty_batch_is_an_empty_result():
    base = MLPS["clip"]()
    for depth in (0, 2):
        layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True, router_hidden_layers=depth)
        assert layer(torch.randn(0, N, D)).shape == (0, N, D)


def test_autocast_runs_in_the_autocast_dtype():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True)
    hidden = torch.randn(B, N, D)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(hidden)
    assert found.dtype == torch.bfloat16
    exact = layer(hidden)
    # bf16 keeps 8 bits; input, inner and output are each rounded to them
    torch.testing.assert_close(found.float(), exact, atol=0.05 * exact.abs().max().item(), rtol=0)


def test_the_whole_layer_compiles_without_a_graph_break():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True)
    hidden = torch.randn(B, N, D)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(hidden), layer(hidden))


@pytest.mark.parametrize("shape", [(N, D), (B, N, D + 1)])
def test_hidden_states_of_another_shape_are_refused(shape):
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T), batch_first=True)
    with pytest.raises(ValueError, match=r"hidden_states must be \[B, N, D\] with D = 16; found"):
        layer(torch.randn(shape))


def test_another_hidden_size_is_refused():
    base = MLPS["clip"]()
    with pytest.raises(ValueError, match="hidden_size must be the input width of base_model, 16; found 24"):
        wemoe.WeightEnsemblingMoE(F, base, experts_of(base, T))


class Normed(TwoLinears):
    """An MLP with a norm inside."""

    def forward(self, x):
        return super().forward(torch.nn.functional.layer_norm(x, (D,)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(D, D), "two linear maps, up and down, or three with a gate; Linear has 1"),
        (nn.Sequential(nn.Linear(D, F), nn.ReLU(), nn.Linear(F + 1, D + 1)), "must follow each other; Sequential has"),
        (Normed(), "Normed computes something else"),
    ],
)
def test_what_is_no_mlp_is_refused_by_name(module, message):
    with pytest.raises(ValueError, match=message):
        find_mlp_parts(module)


def test_repr_shows_the_sizes():
    base = MLPS["clip"]()
    layer = wemoe.WeightEnsemblingMoE(D, base, experts_of(base, T))
    assert "in_features=16, out_features=24, tasks=4, bias=True" in repr(layer)
    assert isinstance(layer.mlp, RoutedMLP)


def routed_linear(outputs=32):
    """A routed linear map, and the plain tensors that it was made of."""
    base, experts = nn.Linear(D, outputs), [nn.Linear(D, outputs) for _ in range(T)]
    plain = {
        "weight": base.weight.detach(),
        "task_vectors": stack_task_vectors(base.weight, [expert.weight for expert in experts]),
        "bias": base.bias.detach(),
        "task_biases": stack_task_vectors(base.bias, [expert.bias for expert in experts]),
    }
    return RoutedLinear.from_linears(base, experts), plain


def assert_state(layer, plain):
    state = layer.state_dict()
    assert list(state) == list(plain)
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())


def test_weights_live_packed_and_are_saved_plain():
    layer, plain = routed_linear()
    assert layer.is_packed
    assert layer.task_vectors.shape == (2, D, T, 16)
    assert sum(p.numel() for p in layer.parameters()) == sum(tensor.numel() for tensor in plain.values())
    assert_state(layer, plain)
    x, routing_weights = torch.randn(B, N, D), torch.randn(B, T)
    y = layer(x, routing_weights)
    layer.unpack()
    assert layer.weight.shape == plain["weight"].shape
    assert_state(layer, plain)
    assert torch.equal(layer(x, routing_weights), y)


def test_outputs_that_do_not_fill_lines_stay_plain():
    layer, plain = routed_linear(outputs=24)
    assert not layer.is_packed
    assert_state(layer, plain)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_state_dict_is_loaded_whatever_the_layout(packed, assign):
    (layer, _), (other, plain) = routed_linear(), routed_linear()
    if not packed:
        layer.unpack()
    layer.load_state_dict(other.state_dict(), assign=assign)
    assert layer.is_packed
    assert_state(layer, plain)
    assert not any(p.requires_grad for p in layer.parameters())


def test_a_state_dict_of_another_shape_is_refused_and_changes_nothing():
    layer, plain = routed_linear()
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: .*\[48, 16\].* is torch.Size\(\[32, 16\]\)"):
        layer.load_state_dict(routed_linear(outputs=48)[0].state_dict())
    assert_state(layer, plain)


def test_a_layer_that_moves_takes_the_layout_of_its_new_place():
    layer, plain = routed_linear()
    assert_state(copy.deepcopy(layer), plain)
    assert layer.bfloat16().is_packed
    assert not layer.double().is_packed
    assert layer.float().is_packed
    assert_state(layer, {name: tensor.bfloat16().float() for name, tensor in plain.items()})
    assert not layer.to("meta").is_packed
    assert layer.state_dict()["task_vectors"].shape == (T, 32, D)
    assert layer.to_empty(device="cpu").is_packed
