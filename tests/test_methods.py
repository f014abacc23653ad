"""What every method of merging keeps, whatever it computes."""

import copy
from functools import partial

import pytest
import torch
from huggingface_hub import save_torch_model
from safetensors.torch import save_model
from torch import nn

import wemoe
from models import fine_tuned
from points import TiedModel
from wemoe.merging import METHODS, RULES

TASKS = ("x", "y", "z")

BATCHES = {task: torch.randint(11, (6, 3), generator=torch.Generator().manual_seed(0)).split(3) for task in TASKS}


def predict(model, batch, task):
    return model(batch)


# by method: as it is called here, and what makes a single expert come out whole
RUNS = {
    "average": (wemoe.average, {}),
    "task_arithmetic": (wemoe.task_arithmetic, {"scaling": 1.0}),
    "ties": (wemoe.ties, {"density": 1.0}),
    "dare_linear": (wemoe.dare_linear, {"density": 1.0, "scaling": 1.0}),
    "dare_ties": (wemoe.dare_ties, {"density": 1.0}),
    "fisher": (partial(wemoe.fisher, batches=BATCHES, predict=predict, examples=6), {}),
    "regmean": (partial(wemoe.regmean, batches=BATCHES, predict=predict, examples=6), {}),
    "adamerging": (
        partial(wemoe.adamerging, streams=BATCHES, predict=predict, steps=2, progress=False),
        {"init_lambda": 1.0, "learning_rate": 1e-9},
    ),
}
READ_DATA = ("fisher", "regmean", "adamerging")

every_method = pytest.mark.parametrize("name", RUNS)


@pytest.fixture
def models():
    base = TiedModel()
    return base, {task: fine_tuned(base, seed=t) for t, task in enumerate(TASKS)}


def merge(name, base, experts, **options):
    method, _ = RUNS[name]
    return method(base, experts, **options)


def test_every_registered_method_is_a_function_of_the_library():
    assert METHODS.keys() == RUNS.keys()
    assert METHODS.keys() <= set(wemoe.__all__)
    assert all(description for description in METHODS.values())
    assert RULES.keys() == METHODS.keys() - set(READ_DATA)


@every_method
def test_a_single_expert_comes_out_whole(name, models):
    base, experts = models
    merged = merge(name, base, {"x": experts["x"]}, **RUNS[name][1])
    for key, tensor in merged.state_dict().items():
        # base + (expert - base) is exact to one rounding of each operation
        torch.testing.assert_close(tensor, experts["x"].state_dict()[key], atol=1e-6, rtol=0)


@every_method
def test_the_order_of_the_experts_changes_nothing_but_rounding(name, models):
    base, experts = models
    forward, backward = (merge(name, base, dict(order)) for order in (experts.items(), reversed(experts.items())))
    for found, expected in zip(forward.parameters(), backward.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@every_method
def test_arguments_stay_untouched(name, models):
    base, experts = models
    all_models = [base, *experts.values()]
    experts["y"].requires_grad_(False)
    experts["z"].train()
    before = [copy.deepcopy(model) for model in all_models]
    state = torch.get_rng_state()
    merge(name, base, experts)
    assert torch.equal(torch.get_rng_state(), state)
    for model, untouched in zip(all_models, before, strict=True):
        assert all(torch.equal(t, untouched.state_dict()[key]) for key, t in model.state_dict().items())
        for module, other in zip(model.modules(), untouched.modules(), strict=True):
            assert type(module) is type(other)
            assert module.training == other.training
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        for parameter, other in zip(model.parameters(), untouched.parameters(), strict=True):
            assert parameter.grad is None
            assert parameter.requires_grad == other.requires_grad


@every_method
def test_two_runs_are_equal_to_the_last_bit(name, models):
    first, second = (merge(name, *models) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))


@every_method
def test_the_result_is_a_plain_model_like_the_base(name, models):
    base, experts = models
    for t, expert in enumerate(experts.values()):
        expert.positions += t + 1
    base.running.zero_()
    base.inner.requires_grad_(False)
    merged = merge(name, base, experts)
    assert type(merged) is TiedModel
    assert all(type(x) is type(y) for x, y in zip(merged.modules(), base.modules(), strict=True))
    assert merged.decoder.weight is merged.embedding.weight
    assert torch.equal(merged.positions, base.positions)
    assert not torch.equal(merged.running, base.running)
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in base.parameters()]
    assert merged.state_dict().keys() == base.state_dict().keys()


@every_method
def test_half_precision_is_merged_in_fp32_and_rounded_once(name, models):
    base, experts = models
    half = [copy.deepcopy(model).bfloat16() for model in (base, *experts.values())]
    exact = [copy.deepcopy(model).float() for model in half]
    merged, expected = (merge(name, first, dict(zip(TASKS, rest, strict=True))) for first, *rest in (half, exact))
    assert all(p.dtype == torch.bfloat16 for p in merged.parameters())
    # one rounding of bf16; where data are read, activations are rounded too and shift the experts' shares a little
    atol = 0.02 if name in READ_DATA else 1e-6
    for found, wanted in zip(merged.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=atol, rtol=2**-8)


@every_method
@pytest.mark.parametrize("kind", ["state dicts", "files", "sharded folders"])
def test_experts_of_any_source_give_the_same_to_the_last_bit(name, kind, models, tmp_path):
    base, experts = models
    merged = merge(name, base, as_sources(experts, kind, tmp_path))
    assert type(merged) is TiedModel
    expected = merge(name, base, experts).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in merged.state_dict().items())


def as_sources(experts, kind, folder):
    if kind == "state dicts":
        return {task: expert.state_dict() for task, expert in experts.items()}
    if kind == "files":
        for task, expert in experts.items():
            save_model(expert, folder / f"{task}.safetensors")
        return {task: folder / f"{task}.safetensors" for task in experts}
    for task, expert in experts.items():
        (folder / task).mkdir()
        save_torch_model(expert, folder / task, max_shard_size=200)
        assert len(list((folder / task).glob("model-*.safetensors"))) > 1
    return {task: str(folder / task) for task in experts}


@every_method
def test_experts_that_do_not_fit_are_named(name, models):
    base, experts = models
    with pytest.raises(ValueError, match="at least one expert"):
        merge(name, base, {})
    with pytest.raises(ValueError, match=r"expert_models\['y'\] must have the parameters of base_model"):
        merge(name, base, experts | {"y": nn.Linear(2, 2)})
    experts["z"].inner.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"expert_models\['z'\] must hold finite numbers; .* 'inner.bias'"):
        merge(name, base, experts)
