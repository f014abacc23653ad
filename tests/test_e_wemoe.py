"""E-WEMoE: one router for all MLPs, pruned task vectors, each of the two a choice of its own."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

import wemoe
from headed import backbone, headed_experts, inputs_for, routed_backbone
from models import BASES, VOCABULARY, experts_of, inputs_of, randomised, tiny_bert, tiny_clip
from test_upcycling import output, with_mlps_of
from tiny_families import CLIP_TEXT, FAMILIES
from wemoe.layers import RoutedMLP
from wemoe.merging.transforms import prune
from wemoe.routed_methods import encode_position
from wemoe.sparse_layers import SparseRoutedLinear

T = 3


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


def mlps(model):
    return [module for module in model.modules() if isinstance(module, RoutedMLP)]


def of_bert(**options):
    base = tiny_bert()
    return randomised(wemoe.upcycle(base, experts_of(base), **{"method": "e_wemoe"} | options))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_all_mlps_have_one_router_which_alone_is_trained_and_counted_once(base, depth):
    model = wemoe.upcycle(base, experts_of(base), method="e_wemoe", router_hidden_layers=depth)
    first, second = mlps(model)
    assert first.router is second.router
    size = {0: T, 1: 16 * T + T, 2: 16 * 16 + 16 + 16 * T + T}[depth]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == size
    config = model.routing_config
    assert (config.method, config.share_router, config.prune_ratio) == ("e_wemoe", True, 0.9)
    output(model, inputs_of(base)).sum().backward()
    assert all(p.grad is not None for p in first.router.parameters())


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_with_neither_choice_it_is_plain_wemoe_to_the_bit(base, depth):
    experts, inputs = experts_of(base), inputs_of(base)
    models = []
    for options in ({}, {"method": "e_wemoe", "prune_ratio": 0, "share_router": False}):
        torch.manual_seed(7)
        models.append(randomised(wemoe.upcycle(base, experts, router_hidden_layers=depth, **options)))
    plain, e_wemoe = models
    assert torch.equal(output(plain, inputs), output(e_wemoe, inputs))
    assert all(torch.equal(t, e_wemoe.state_dict()[n]) for n, t in plain.state_dict().items())
    assert e_wemoe.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_one_hot_routing_gives_the_base_and_one_pruned_task_vector(base, ratio):
    experts = experts_of(base)
    model = wemoe.upcycle(base, experts, method="e_wemoe", prune_ratio=ratio, router_hidden_layers=0)
    inputs, merged = inputs_of(base), wemoe.task_arithmetic(base, experts, 0.3)
    for t, expert in enumerate(experts.values()):
        mlps(model)[0].router.weight.data = torch.eye(T)[t]
        pruned = copy.deepcopy(expert)
        for parameter, theta in zip(pruned.parameters(), base.parameters(), strict=True):
            parameter.data = theta.data + prune(parameter.data - theta.data, ratio)
        expected = output(with_mlps_of(pruned, copy.deepcopy(merged)), inputs)
        # fp32 through two blocks of width 16
        torch.testing.assert_close(output(model, inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position_encoding", [False, True])
def test_the_gradient_of_the_shared_router_is_the_sum_over_the_blocks(base, position_encoding):
    experts, inputs = experts_of(base), inputs_of(base)
    shared = wemoe.upcycle(base, experts, method="e_wemoe", position_encoding=position_encoding)
    shared = randomised(shared)
    apart = copy.deepcopy(shared)
    for mlp in mlps(apart):
        mlp.router = copy.deepcopy(mlp.router)
    for model in (shared, apart):
        output(model, inputs).square().sum().backward()
    found = dict(mlps(shared)[0].router.named_parameters())
    parts = [dict(mlp.router.named_parameters()) for mlp in mlps(apart)]
    for name, parameter in found.items():
        expected = sum(part[name].grad for part in parts)
        # two terms, added in another order
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6 * expected.abs().max().item(), rtol=1e-5)


def test_positions_are_sines_then_cosines_of_eight_dimensions():
    assert encode_position(0) == (0, 0, 0, 0, 1, 1, 1, 1)
    angles = [3, 3 / 10, 3 / 100, 3 / 1000]  # 10000^(2 i / 8) = 10^i
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    assert encode_position(3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_router_reads_the_position_before_the_hidden_states(depth, dtype):
    base = tiny_bert().to(dtype)
    model = wemoe.upcycle(base, experts_of(base), method="e_wemoe", router_hidden_layers=depth, position_encoding=True)
    router = randomised(model).encoder.layer[0].output.dense.router
    first = router.fc if depth == 1 else router.fc1
    assert (first.in_features, first.out_features) == (24, T if depth == 1 else 24)
    seen = []
    router.register_forward_pre_hook(lambda _router, inputs: seen.append(inputs[0]))
    output(model, inputs_of(tiny_bert()))
    for index, states in enumerate(seen):
        position = torch.tensor(encode_position(index))  # fp32, whatever the base's dtype
        assert torch.equal(states[..., :8], position.expand(3, 7, 8))
        assert states.shape == (3, 7, 24)


def test_routing_weights_are_recorded_for_each_block():
    model, inputs = of_bert(), inputs_of(tiny_bert())
    apart = copy.deepcopy(model)
    for mlp in mlps(apart):
        mlp.router = copy.deepcopy(mlp.router)
    records = []
    for each in (model, apart):
        with wemoe.record_routing(each) as routing:
            output(each, inputs)
            output(each, inputs)
        records.append(routing)
    assert list(records[0]) == ["encoder.layer.0.output.dense", "encoder.layer.1.output.dense"]
    for name, calls in records[0].items():
        assert len(calls) == 2
        assert all(torch.equal(one, same) for one, same in zip(calls, records[1][name], strict=True))
    first, second = (calls[0] for calls in records[0].values())
    assert not torch.allclose(first, second)


def test_a_writer_keeps_the_routing_weights_of_each_block_with_its_cache():
    base = FAMILIES["gpt2"].make()
    model = randomised(wemoe.upcycle(base, experts_of(base), method="e_wemoe", position_encoding=True))
    ids = torch.randint(3, VOCABULARY, (2, 5))
    with torch.no_grad():
        whole = model(input_ids=ids, prompt_mask=torch.arange(5).expand(2, 5) < 4, use_cache=False).logits[:, -1]
        prefill = model(input_ids=ids[:, :4], use_cache=True)
        last = model(input_ids=ids[:, 4:], past_key_values=prefill.past_key_values).logits[:, -1]
    torch.testing.assert_close(last, whole, atol=1e-5, rtol=1e-5)  # fp32, attention in one call or in two


CHOICES = ({}, {"prune_ratio": 0.0}, {"share_router": False}, {"position_encoding": True})


@pytest.mark.parametrize(
    "options",
    [
        {"router_hidden_layers": depth, **choice}
        for depth in (0, 1, 2)
        for choice in (CHOICES if depth else CHOICES[:-1])  # a constant router reads no position
    ],
)
def test_a_checkpoint_shares_the_router_and_is_loaded_to_the_same_bits(tmp_path, options):
    model = of_bert(**options)
    model.save_pretrained(tmp_path)
    configuration = json.loads((tmp_path / "config.json").read_text())
    first, second = (f"encoder.layer.{index}.output.dense.router" for index in (0, 1))
    stored = load_file(tmp_path / "wemoe.safetensors")
    is_shared = options.get("share_router", True)
    assert configuration["shared"] == ({second: first} if is_shared else {})
    assert any(name.startswith(second) for name in stored) == (not is_shared)
    again, inputs = wemoe.from_pretrained(tmp_path), inputs_of(tiny_bert())
    assert again.routing_config == model.routing_config
    assert (mlps(again)[0].router is mlps(again)[1].router) == is_shared
    assert torch.equal(output(again, inputs), output(model, inputs))
    assert repr(again) == repr(model)


def test_what_plain_wemoe_does_not_have_is_written_only_where_it_was_chosen(tmp_path):
    """An earlier reader refuses what it does not know by name, and reads the rest."""
    for method in ("wemoe", "e_wemoe"):
        of_bert(method=method).save_pretrained(tmp_path / method)
    plain, e_wemoe = (
        json.loads((tmp_path / method / "config.json").read_text())["wemoe"] for method in ("wemoe", "e_wemoe")
    )
    assert e_wemoe.keys() - plain.keys() == {"share_router", "prune_ratio"}
    assert plain["format_version"] == e_wemoe["format_version"] == 2


def test_at_90_percent_a_checkpoint_is_a_fraction_of_a_dense_one(tmp_path):
    base = tiny_bert(hidden_size=64, intermediate_size=256)
    experts = experts_of(base, 8)
    sizes, bytes_held = [], []
    for options in ({"method": "e_wemoe"}, {"method": "e_wemoe", "prune_ratio": 0.0}):
        model = wemoe.upcycle(base, experts, **options)
        memory = wemoe.estimate_memory(model)
        bytes_held.append(memory.task_vectors)
        model.save_pretrained(tmp_path / str(len(sizes)))
        rest = memory.base + memory.routers
        sizes.append((tmp_path / str(len(sizes)) / "wemoe.safetensors").stat().st_size - rest)
    for small, large in (bytes_held, sizes):  # the files' names of tensors count against the small one
        assert small <= 0.22 * large


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_task_vectors_are_converted_when_loaded(tmp_path, half):
    model = of_bert(prune_ratio=0.5)
    model.save_pretrained(tmp_path)
    again, inputs = wemoe.from_pretrained(tmp_path, task_vector_dtype=half), inputs_of(tiny_bert())
    layers = [module for module in again.modules() if isinstance(module, SparseRoutedLinear)]
    assert {layer.values.dtype for layer in layers} == {half}
    assert {layer.weight.dtype for layer in layers} == {torch.float32}
    found, expected = output(again, inputs), output(model, inputs)
    # each task vector's numbers are off by half an epsilon at most, and the weights they are added to by less
    assert 0 < (found - expected).norm() <= torch.finfo(half).eps / 2 * expected.norm()
    made = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert()), method="e_wemoe", task_vector_dtype=half)
    assert mlps(made)[0].up.values.dtype == half


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t["masks"].view(-1)[:1].bitwise_xor_(1),
            r"must be stored whole: `values` must hold a number for each",
        ),
        (lambda t: t["offsets"].add_(1), "must be stored whole: `offsets` must tell where"),
        (lambda t: t.update(values=t["values"][:-1]), "must be stored whole: `values` must hold"),
        (lambda t: t.update(values=t["values"].unsqueeze(0)), "misshapen: .*values"),
        (lambda t: t.update(masks=t["masks"][:, :-1].contiguous()), "misshapen: .*masks"),
    ],
)
def test_damaged_task_vectors_are_refused(tmp_path, edit, message):
    of_bert().save_pretrained(tmp_path)
    file, prefix = tmp_path / "wemoe.safetensors", "encoder.layer.1.output.dense.up."
    tensors = load_file(file)
    part = {name: tensors[f"{prefix}{name}"] for name in ("masks", "values", "offsets")}
    edit(part)
    save_file(tensors | {f"{prefix}{name}": tensor for name, tensor in part.items()}, file)
    with pytest.raises(ValueError, match=message):
        wemoe.from_pretrained(tmp_path)


def test_a_shared_router_needs_blocks_of_one_width(monkeypatch):
    wide = clip_of(text_width=32)
    monkeypatch.setattr("wemoe.upcycling.merged_copy", lambda *_: pytest.fail("no work before the check"))
    with pytest.raises(ValueError, match=r"share_router needs blocks of one width; found 32 in 'text.*' and 16 in 'v"):
        wemoe.upcycle(wide, experts_of(wide), method="e_wemoe")


def clip_of(text_width):
    text = CLIP_TEXT | {"hidden_size": text_width}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=tiny_clip().config.to_dict(), projection_dim=8)).eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "moe"}, "method must be one of wemoe, e_wemoe, pwemoe; found 'moe'"),
        ({"prune_ratio": 1.0}, r"prune_ratio must be in \[0, 1\); found 1.0"),
        ({"prune_ratio": -0.1}, r"prune_ratio must be in \[0, 1\); found -0.1"),
        ({"position_encoding": True}, "position_encoding needs share_router=True"),
        ({"method": "e_wemoe", "position_encoding": True, "router_hidden_layers": 0}, "depth 1 or 2"),
    ],
)
def test_choices_out_of_range_are_refused_by_name(options, message):
    base = tiny_bert()
    with pytest.raises(ValueError, match=message):
        wemoe.upcycle(base, experts_of(base), **options)
    with pytest.raises(ValueError, match=message):
        wemoe.estimate_memory(base, T, **options)


@pytest.mark.parametrize("kind", ["bert", "vit", "gpt2"])
def test_a_headed_model_has_the_one_router_too_and_is_loaded_so(tmp_path, kind):
    experts = headed_experts(kind)
    model = routed_backbone(experts, method="e_wemoe")
    headed = wemoe.with_head(model, experts["two"])
    routers = {id(mlp.router) for mlp in (*mlps(headed), *mlps(model))}
    assert len(routers) == 1
    headed.save_pretrained(tmp_path)
    again, inputs = wemoe.from_pretrained(tmp_path), inputs_for(headed)
    assert torch.equal(again(**inputs).logits, headed(**inputs).logits)
    assert len({id(mlp.router) for mlp in mlps(again)}) == 1
    assert backbone(headed).routing_config.method == "e_wemoe"


def test_the_adapted_router_is_the_same_object_everywhere_and_only_it_moves():
    base = tiny_bert()
    experts = experts_of(base, 2)
    model = wemoe.upcycle(base, experts, method="e_wemoe")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    streams = {task: torch.randint(1, VOCABULARY, (1, 4, 6)).unbind() for task in experts}  # one batch each
    result = wemoe.adapt(
        model,
        streams,
        lambda model, batch, _task: model(input_ids=batch).pooler_output,
        objective="match",
        experts=experts,
        steps=8,
        learning_rate=1e-2,
        progress=False,
    )
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert mlps(model)[0].router is mlps(model)[1].router


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    base = tiny_bert()
    model, inputs = of_bert(), inputs_of(base)
    output(model, inputs).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output(model, inputs).square().sum().backward()
    for name, gradient in expected.items():
        assert torch.equal(model.get_parameter(name).grad, gradient)


def test_parameters_are_printed_without_what_is_pruned(capsys):
    of_bert(prune_ratio=0.5).print_trainable_parameters()
    trained = 16 * 16 + 16 + 16 * T + T
    # of n entries pruning by a half keeps n - 1 - floor((n - 1) / 2), n / 2 where n is even
    kept = 2 * T * (2 * 16 * 24 + 24 + 16) // 2
    everything = tiny_bert().num_parameters() + kept + trained
    assert capsys.readouterr().out.startswith(f"trainable params: {trained:,} || all params: {everything:,} ||")


def test_the_model_and_its_card_tell_what_was_chosen(tmp_path):
    model = of_bert(position_encoding=True)
    assert "batch_reduce=False, share_router=True, prune_ratio=0.9, position_encoding=True\n" in repr(model)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "[arXiv 2410.21804](https://arxiv.org/abs/2410.21804)" in card
    assert "| one router for all MLPs | yes |\n" in card
    assert "| share of each task vector's entries that was removed | 0.9 |\n" in card


def test_routers_of_another_choice_are_refused(tmp_path):
    base = tiny_bert()
    experts = experts_of(base)

    def upcycled(**options):
        return randomised(wemoe.upcycle(base, experts, method="e_wemoe", **options))

    model, other, inputs = upcycled(), upcycled(), inputs_of(base)
    wemoe.save_routers(model, tmp_path)
    wemoe.load_routers(other, tmp_path)
    assert torch.equal(output(other, inputs), output(model, inputs))
    with pytest.raises(ValueError, match=r"must be upcycled with prune_ratio = 0\.9, as the routers were; found 0\.5"):
        wemoe.load_routers(upcycled(prune_ratio=0.5), tmp_path)
    with pytest.raises(ValueError, match="model must be upcycled with share_router = True"):
        wemoe.load_routers(upcycled(share_router=False), tmp_path)
