"""Upcycling: a routed model of the base's own class, padding kept out of the routing, experts left alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

import wemoe
from models import BASES, VOCABULARY, experts_of, fine_tuned, inputs_of, randomised, tiny_bert
from wemoe.layers import RoutedMLP
from wemoe.models import find_blocks


def output(model, inputs):
    return model(**inputs).last_hidden_state


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


def test_one_hot_routing_gives_the_experts_mlps_and_the_merged_rest(base):
    experts = experts_of(base)
    model = wemoe.upcycle(base, experts, router_hidden_layers=0)
    for t, task in enumerate(experts):
        for module in model.modules():
            if isinstance(module, RoutedMLP):
                module.router.weight.data = torch.eye(len(experts))[t]
        inputs = inputs_of(base)
        expected = output(with_mlps_of(experts[task], wemoe.task_arithmetic(base, experts, 0.3)), inputs)
        # fp32 through two blocks of width 16; weights are rebuilt as theta_0 + (theta_t - theta_0)
        torch.testing.assert_close(output(model, inputs), expected, atol=1e-5, rtol=1e-5)


def with_mlps_of(expert, merged):
    for path, family in find_blocks(merged).items():
        for slot in (family.mlp.up, family.mlp.down):
            source = expert.get_submodule(path).get_submodule(slot)
            merged.get_submodule(path).get_submodule(slot).load_state_dict(source.state_dict())
    return merged


def test_the_result_is_of_the_bases_class_and_only_routers_train(base):
    model = wemoe.upcycle(base, experts_of(base))
    assert isinstance(model, type(base))
    assert not model.training
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".router." in name}
    output(model, inputs_of(base)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name in trained)


def test_arguments_stay_untouched(base):
    experts = experts_of(base)
    before = copy.deepcopy([base, *experts.values()])
    wemoe.upcycle(base, experts)
    for then, now in zip(before, [base, *experts.values()], strict=True):
        assert type(then) is type(now)
        assert then.state_dict().keys() == now.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(then.parameters(), now.parameters(), strict=True))
        assert all(p.requires_grad for p in now.parameters())


def test_a_list_and_frozen_arguments_give_the_same_model(base):
    experts = experts_of(base)
    inputs = inputs_of(base)
    torch.manual_seed(0)
    by_name = wemoe.upcycle(base, experts)
    torch.manual_seed(0)
    frozen = [copy.deepcopy(expert).requires_grad_(False) for expert in experts.values()]
    by_order = wemoe.upcycle(copy.deepcopy(base).requires_grad_(False), frozen)
    assert by_order.routing_config.tasks == ("task_0", "task_1", "task_2")
    assert torch.equal(output(by_name, inputs), output(by_order, inputs))


def test_copies_and_pickles_are_equal(base):
    model = randomised(wemoe.upcycle(base, experts_of(base)))
    inputs = inputs_of(base)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert twin.routing_config == model.routing_config
        assert torch.equal(output(twin, inputs), output(model, inputs))


def ragged(model):
    """A sample of 4 tokens: alone, in a batch of longer ones, and padded to twice its length."""
    short = torch.randint(1, VOCABULARY, (1, 4))
    others = torch.randint(1, VOCABULARY, (2, 7))
    batch = torch.cat([nn.functional.pad(short, (0, 3)), others])
    mask = torch.ones(3, 7).long()
    mask[0, 4:] = 0
    return {
        "alone": output(model, {"input_ids": short}),
        "in a batch": output(model, {"input_ids": batch, "attention_mask": mask})[:1, :4],
        "padded": output(
            model,
            {
                "input_ids": nn.functional.pad(short, (0, 4)),
                "attention_mask": torch.tensor([[1] * 4 + [0] * 4]),
            },
        )[:, :4],
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("depth", [1, 2])
def test_padding_never_changes_a_samples_output(attention, depth):
    base = tiny_bert()
    base.set_attn_implementation(attention)
    model = randomised(wemoe.upcycle(base, experts_of(base), router_hidden_layers=depth))
    found = ragged(model)
    torch.testing.assert_close(found["in a batch"], found["alone"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["padded"], found["alone"], atol=1e-5, rtol=0)


def test_checkpointed_router_gradients_equal_those_without():
    """Two forwards, then one backward: the recomputation must see each forward's own mask."""
    base = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = randomised(wemoe.upcycle(base, experts_of(base))).train()
    batches = [inputs_of(base, batch=3), inputs_of(base, batch=4)]

    def gradients():
        model.zero_grad()
        sum(output(model, batch).square().sum() for batch in batches).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    for reentrant in (False, True):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        for name, gradient in gradients().items():
            torch.testing.assert_close(gradient, expected[name], msg=lambda text, n=name: f"{n}: {text}")


def test_batch_reduce_shares_one_set_of_weights():
    base = tiny_bert()
    model = randomised(wemoe.upcycle(base, experts_of(base), batch_reduce=True))
    with wemoe.record_routing(model) as routing:
        output(model, inputs_of(base))
    assert model.routing_config.batch_reduce
    mlps = [module for module in model.modules() if isinstance(module, RoutedMLP)]
    assert len(routing) == len(mlps) == 2
    assert all(mlp.batch_reduce for mlp in mlps)


def test_feed_forward_chunking_is_switched_off_with_a_warning():
    base = tiny_bert(chunk_size_feed_forward=2)
    with pytest.warns(UserWarning, match="chunk_size_feed_forward is set to 0 in BertLayer"):
        model = randomised(wemoe.upcycle(base, experts_of(base)))
    assert base.encoder.layer[0].chunk_size_feed_forward == 2
    assert output(model, {"input_ids": torch.ones(1, 7).long()}).shape == (1, 7, 16)


def test_half_precision_bases_keep_routers_in_single_precision():
    base = tiny_bert().bfloat16()
    model = wemoe.upcycle(base, {task: e.bfloat16() for task, e in experts_of(tiny_bert()).items()})
    dtypes = {name.split(".")[-3] == "router": p.dtype for name, p in model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert output(model, inputs_of(base)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"router_hidden_layers": 3}, "router_hidden_layers"),
        ({"init_lambda": float("nan")}, "init_lambda"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    base = tiny_bert()
    with pytest.raises(ValueError, match=message):
        wemoe.upcycle(base, experts_of(base), **arguments)


def test_no_expert_is_refused():
    with pytest.raises(ValueError, match=r"at least one expert \(T >= 1\); found none"):
        wemoe.upcycle(tiny_bert(), {})


def test_tensors_alone_and_routed_models_are_no_base():
    base = tiny_bert()
    experts = [fine_tuned(base, 1)]
    with pytest.raises(TypeError, match="base_model must be a module or a checkpoint's folder, for its class; found"):
        wemoe.upcycle(base.state_dict(), experts)
    with pytest.raises(TypeError, match=r"base_model must be a module, a state dict or .*; found int"):
        wemoe.upcycle(3, experts)
    with pytest.raises(TypeError, match="found one that is upcycled already"):
        wemoe.upcycle(wemoe.upcycle(base, experts), experts)
