"""Every family: found, routed as a model merged by hand for each sample, trained, saved, and loaded elsewhere."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import (
    ElectraConfig,
    ElectraModel,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5EncoderModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.pytorch_utils import Conv1D

import wemoe
from models import experts_of, randomised
from tiny_families import BERT, FAMILIES, LLAMA, T5, VISION, of, output
from wemoe.layers import RoutedMLP
from wemoe.merging.transforms import prune
from wemoe.models import find_blocks
from wemoe.routed_methods import ROUTED_METHODS

families = pytest.mark.parametrize("name", FAMILIES)
methods = pytest.mark.parametrize("method", ROUTED_METHODS)
SLOW = pytest.mark.slow


def make(name, **options):
    base = FAMILIES[name].make()
    experts = experts_of(base)
    return base, experts, randomised(wemoe.upcycle(base, experts, **options)), FAMILIES[name].inputs()


def mlp_paths(family):
    return [path for path in (family.mlp.up, family.mlp.gate, family.mlp.down) if path is not None]


@families
def test_a_description_names_the_pieces_of_every_block(name):
    base = FAMILIES[name].make()
    blocks = find_blocks(base)
    assert {family.name for family in blocks.values()} == {FAMILIES[name].family}
    assert len(blocks) == (4 if name in ("clip", "t5", "flan-t5") else 2)
    for path, family in blocks.items():
        block = base.get_submodule(path)
        for slot in (*mlp_paths(family), *family.attention):
            assert isinstance(block.get_submodule(slot), nn.Linear | Conv1D | nn.MultiheadAttention)
        if "structure" not in family.name:
            mine = {
                id(p) for slot in (*family.attention, *family.norms) for p in block.get_submodule(slot).parameters()
            }
            mine |= {id(p) for slot in mlp_paths(family) for p in block.get_submodule(slot).parameters()}
            rest = [n for n, p in block.named_parameters() if id(p) not in mine]
            assert all("relative_attention_bias" in n for n in rest)  # everything else is described


@methods
@families
def test_every_sample_equals_the_model_merged_for_it_by_hand(name, method):
    base, experts, model, inputs = make(name, method=method)
    ratio = model.routing_config.prune_ratio
    with wemoe.record_routing(model) as routing:
        found = output(model, inputs)
    merged = wemoe.task_arithmetic(base, experts, 0.3)
    names = {p: n for n, p in merged.named_parameters()}
    for b in range(len(found)):
        theta = {}
        for path, family in find_blocks(base).items():
            for slot in mlp_paths(family):
                # a preference merges linear maps each for itself, by one router
                calls = routing.get(f"{path}.{family.mlp.replaced}") or routing[f"{path}.{slot}"]
                weights = calls[0][b]  # [T]
                for parameter in merged.get_submodule(path).get_submodule(slot).parameters():
                    n = names[parameter]
                    theta_0 = base.get_parameter(n)
                    task_vectors = [prune(expert.get_parameter(n) - theta_0, ratio) for expert in experts.values()]
                    theta[n] = theta_0 + sum(w * tau for w, tau in zip(weights, task_vectors, strict=True))
        sample = {key: value[b : b + 1] for key, value in inputs.items()}
        expected = output(functional_caller(merged, theta), sample)
        real = sample["attention_mask"].bool() if found.shape[:2] == sample.get("attention_mask", found).shape else ...
        # fp32 through two blocks of width 16; weights are summed in another order
        torch.testing.assert_close(found[b : b + 1][real], expected[real], atol=2e-5, rtol=1e-5)


def functional_caller(model, theta):
    return lambda **inputs: functional_call(model, theta, (), inputs)


@methods
@families
def test_a_sample_depends_neither_on_its_batch_nor_on_its_padding(name, method):
    _, _, model, inputs = make(name, method=method)
    whole = output(model, inputs)
    for b in range(len(whole)):
        sample = {key: value[b : b + 1] for key, value in inputs.items()}
        if "attention_mask" in sample:
            tokens = int(sample["attention_mask"].sum())
            sample |= {key: sample[key][:, :tokens] for key in ("input_ids", "attention_mask")}
        alone = output(model, sample)
        torch.testing.assert_close(whole[b : b + 1, : alone.shape[1]], alone, atol=2e-5, rtol=1e-5)


@methods
@families
def test_gradients_reach_every_router_and_nothing_else(name, method):
    _, _, model, inputs = make(name, method=method)
    output(model, inputs).square().sum().backward()
    for n, parameter in model.named_parameters():
        assert parameter.requires_grad == (".router." in n)
        assert (parameter.grad is not None) == parameter.requires_grad
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0


@families
def test_batch_averaged_routing_shares_one_set_of_weights(name):
    _, _, model, inputs = make(name, batch_reduce=True)
    twice = {key: torch.cat([value, value]) for key, value in inputs.items()}
    found = output(model, inputs)
    torch.testing.assert_close(output(model, twice)[: len(found)], found, atol=2e-5, rtol=1e-5)


QUICK = ("clip vision", "bert", "gpt2", "flan-t5", "llama", "openclip, tokens first")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in FAMILIES])
def test_whole_models_compile_without_a_graph_break(name):
    _, _, model, inputs = make(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(output(compiled, inputs), output(model, inputs))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Every family's models saved, and the outputs that one other process has with what it loads."""
    folder = tmp_path_factory.mktemp("families")
    expected = {}
    for number, name in enumerate(FAMILIES):
        for method in ROUTED_METHODS:
            torch.manual_seed(number)
            _, _, model, inputs = make(name, method=method)
            model.save_pretrained(folder / name / method)
            torch.save(inputs, folder / name / method / "inputs.pt")
            with torch.no_grad():
                expected[name, method] = output(model, inputs)
    script = f"""
import sys, torch, wemoe
from pathlib import Path
from tiny_families import BERT, FAMILIES, LLAMA, T5, VISION, of, output
torch.set_num_threads({torch.get_num_threads()})
for name, tiny in FAMILIES.items():
    for folder in (Path(sys.argv[1]) / name).iterdir():
        skeleton = tiny.make() if "openclip" in name else None
        model = wemoe.from_pretrained(folder, base_model=skeleton)
        with torch.no_grad():
            torch.save(output(model, torch.load(folder / "inputs.pt")), folder / "outputs.pt")
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd="tests")
    return {key: (there, torch.load(folder.joinpath(*key, "outputs.pt"))) for key, there in expected.items()}


@methods
@families
def test_a_fresh_process_loads_it_to_the_same_bits(elsewhere, name, method):
    here, there = elsewhere[name, method]
    assert torch.equal(here, there)


ALIKE = {
    "electra": of(ElectraModel, ElectraConfig(**BERT, embedding_size=16)),
    "xlm-roberta": of(XLMRobertaModel, XLMRobertaConfig(**BERT)),
    "siglip": of(SiglipVisionModel, SiglipVisionConfig(**VISION)),
    "mt5": of(MT5EncoderModel, MT5Config(**T5)),
    "mistral": of(MistralForCausalLM, MistralConfig(**LLAMA)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_families_that_share_a_description_are_found_by_it(name):
    blocks = find_blocks(ALIKE[name]())
    assert len(blocks) == 2
    assert {family.name for family in blocks.values()} <= {tiny.family for tiny in FAMILIES.values()}
    assert not any("structure" in family.name for family in blocks.values())


def test_t5_keeps_its_last_map_in_single_precision():
    base = FAMILIES["t5"].make().bfloat16()
    for path, family in find_blocks(base).items():
        base.get_submodule(path).get_submodule(family.mlp.down).float()
    model = wemoe.upcycle(base, [base])  # task vectors of zeros: the base itself
    inputs = FAMILIES["t5"].inputs()
    dtypes = {}

    def remember(name):
        return lambda _module, _inputs, outputs: dtypes.setdefault(name, []).append(outputs.dtype)

    for name, m in (("base", base), ("model", model)):
        for path, family in find_blocks(base).items():
            m.get_submodule(path).get_submodule(family.mlp.replaced).register_forward_hook(remember(name))
    # bf16 keeps 8 bits, and attention rounds to them at every step of two blocks
    torch.testing.assert_close(output(model, inputs), output(base, inputs), atol=0.02, rtol=0.02)
    assert dtypes["model"] == dtypes["base"] == [torch.float32] * 4


class Layer(nn.Module):
    """A block that no family has: its MLP is spread over it, behind a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.widen = nn.Linear(16, 24)
        self.narrow = nn.Linear(24, 16)

    def forward(self, x, attention_mask=None):
        return x + self.narrow(nn.functional.silu(self.widen(self.norm(x))))


class Stack(nn.Module):
    def __init__(self, block=Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList([block(), block()])

    def forward(self, x, attention_mask=None):
        for layer in self.layers:
            x = layer(x, attention_mask=attention_mask)
        return x


LAYER = wemoe.Family(
    name="mine",
    blocks=("Layer",),
    mlp=wemoe.MLPSlots(up="widen", activation="silu", down="narrow", replaced="narrow", bypassed=("widen",)),
)


def test_a_description_of_ones_own_is_enough(tmp_path):
    base = Stack()
    experts = experts_of(base)
    model = randomised(wemoe.upcycle(base, experts, family=LAYER))
    x = torch.randn(3, 7, 16)
    assert [type(layer.narrow) for layer in model.layers] == [RoutedMLP, RoutedMLP]
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path, base_model=Stack())
    assert again.routing_config.families == (LAYER,)
    assert torch.equal(again(x), model(x))


class Normed(nn.Module):
    """Two linear maps with a norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 16)

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def with_children(*kinds):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Sequential(*(kind() for kind in kinds))

        def forward(self, x, attention_mask=None):
            return self.parts(x)

    return lambda: Stack(Block)


@pytest.mark.parametrize(
    ("make_base", "message"),
    [
        (with_children(Normed), r"'layers.0.parts.0': an MLP must compute .* Normed computes something else"),
        (with_children(nn.Identity), r"blocks in a list of layers with an MLP .* found none in Stack\. A description"),
        (with_children(Plain, Plain), r"one MLP in each block; block 'layers.0' has 'parts.0' and 'parts.1'"),
        (lambda: Stack(Plain), r"found none in Stack\. "),  # elements themselves: experts of a mixture look like this
        (lambda: nn.Linear(2, 2), r"found none in Linear\. .* for a single MLP there is wemoe.WeightEnsemblingMoE"),
    ],
)
def test_what_cannot_be_upcycled_is_named_with_the_reason(make_base, message):
    base = make_base()
    with pytest.raises(ValueError, match=message):
        wemoe.upcycle(base, [base])


def test_a_description_that_fits_nothing_is_named():
    base = FAMILIES["bert"].make()
    with pytest.raises(ValueError, match=r"blocks of BertModel; found none that is .mine., classes"):
        wemoe.upcycle(base, [base], family=LAYER)


class Deaf(Layer):
    """Its forward has no attention mask."""

    def forward(self, x, **_):
        return super().forward(x)


def test_blocks_that_never_see_the_padding_are_warned_of():
    base = Stack(Deaf)
    with pytest.warns(UserWarning, match="padding will vote on the routing weights: Stack takes an attention_mask"):
        wemoe.upcycle(base, [base], family=LAYER)


def test_an_activation_is_not_shared_with_the_base():
    base = FAMILIES["clip vision"].make()
    wemoe.upcycle(base, experts_of(base)).train()
    assert not any(module.training for module in base.modules())
