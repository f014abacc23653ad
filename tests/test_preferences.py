"""A preference steers a PWEMoE: checked at the door, never stale, saved with the model, for all samples or for each."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import wemoe
from models import experts_of, inputs_of, randomised, tiny_bert, tiny_clip, tiny_vit
from tiny_families import FAMILIES, output
from wemoe.preference_layers import PreferenceLayer, merging_once
from wemoe.preferences import check_preference
from wemoe.router_sharing import routers_of

TASKS = ("task0", "task1", "task2")
PREFERENCES = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
MODELS = {"clip": tiny_clip, "vit": tiny_vit, "bert": tiny_bert, "gpt2": FAMILIES["gpt2"].make}
MODULES = ("mlp", "mlp+attention", "all")


def steered(name="bert", modules="all", **options):
    base = MODELS[name]()
    experts = experts_of(base)
    model = randomised(wemoe.upcycle(base, experts, method="pwemoe", modules=modules, progress=False, **options))
    return base, experts, model


def inputs_for(name, model):
    return FAMILIES["gpt2"].inputs() if name == "gpt2" else inputs_of(model)


@torch.no_grad()
def answers(model, inputs):
    return output(model, inputs)


def layers(model):
    return [module for module in model.modules() if isinstance(module, PreferenceLayer)]


def keeping(model):
    return [layer for layer in layers(model) if layer._merged is not None]


# --- what is routed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("name", MODELS)
def test_a_preference_for_each_sample_equals_a_preference_for_all(name, modules):
    _, _, model = steered(name, modules)
    inputs = inputs_for(name, model)
    wemoe.set_preference(model, PREFERENCES)
    together = answers(model, inputs)
    for b, preference in enumerate(PREFERENCES):
        wemoe.set_preference(model, preference)
        # fp32 through two blocks of width 16; sums run in another order
        torch.testing.assert_close(together[b], answers(model, inputs)[b], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("name", MODELS)
def test_the_plain_model_of_a_preference_computes_the_same(name, modules, tmp_path):
    base, _, model = steered(name, modules)
    inputs = inputs_for(name, model)
    for preference in PREFERENCES:
        plain = wemoe.merge_and_unload(model, preference)
        assert type(plain) is type(base)
        wemoe.set_preference(model, preference)
        # the issue's own bound: the plain model merges the same tensors, once
        torch.testing.assert_close(answers(plain, inputs), answers(model, inputs), atol=1e-5, rtol=0)
    plain.save_pretrained(tmp_path)
    again, told = type(base).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(answers(again, inputs), answers(plain, inputs))
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize(
    ("name", "modules", "expected"),
    [  # per block an MLP, an attention and two norms; outside the norms (BERT 1, CLIP 2, ViT 1, GPT-2 1), the patches
        ("bert", "mlp", 2), ("bert", "mlp+attention", 4), ("bert", "all", 9),
        ("clip", "mlp", 2), ("clip", "mlp+attention", 4), ("clip", "all", 11),
        ("vit", "all", 10), ("gpt2", "all", 9),
    ],
)  # fmt: skip
def test_each_mlp_attention_and_norm_has_a_router_of_its_own(name, modules, expected):
    _, _, model = steered(name, modules)
    routers = routers_of(model)
    assert len(routers) == expected
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for router in routers for p in router.parameters()}
    assert all(sum(p.numel() for p in router.parameters()) == 4 * 3**2 + 3 * 3 for router in routers)


def test_routers_start_as_published():
    base = tiny_bert()
    torch.manual_seed(0)
    for depth, parameters in ((1, 3**2 + 3), (2, 4 * 3**2 + 3 * 3)):
        model = wemoe.upcycle(base, experts_of(base), method="pwemoe", router_hidden_layers=depth, init_lambda=0.4)
        for router in routers_of(model):
            assert sum(p.numel() for p in router.parameters()) == parameters
            assert torch.equal(router.fc2.bias, torch.full((3,), 0.4))
            assert router.fc1 is None or not router.fc1.bias.any()
            weights = torch.cat([p.flatten() for n, p in router.named_parameters() if n.endswith("weight")])
            assert 0 < weights.abs().max() < 0.06  # six standard deviations of N(0, 0.01^2)


def test_constant_routing_weights_give_the_base_an_expert_and_task_arithmetic():
    base, experts, model = steered("bert")
    inputs = inputs_of(base)
    wemoe.set_preference(model, PREFERENCES[0])

    def constant(weights):
        for router in routers_of(model):
            for parameter in router.parameters():
                nn.init.zeros_(parameter)
            router.fc2.bias.data.copy_(torch.tensor(weights))
        return wemoe.merge_and_unload(model)

    described = {n for layer in layers(model) for n, _ in layer.base.named_parameters()}
    assert described
    for weights, whole in (([0.0] * 3, base), ([0.0, 1.0, 0.0], experts["task1"])):
        plain, seen = constant(weights), set()
        for path, layer in model.named_modules():
            if isinstance(layer, PreferenceLayer):
                for name, parameter in plain.get_submodule(path).named_parameters():
                    # theta_0 + (theta_1 - theta_0) is rounded twice
                    torch.testing.assert_close(
                        parameter, whole.get_submodule(path).get_parameter(name), atol=1e-6, rtol=0
                    )
                    seen.add(f"{path}.{name}")
        assert len(seen) == 2 * len(layers(model))
    merged = wemoe.task_arithmetic(base, experts, 0.3)
    torch.testing.assert_close(answers(constant([0.3] * 3), inputs), answers(merged, inputs), atol=1e-5, rtol=1e-5)


def test_permuting_the_tasks_and_the_preference_changes_nothing():
    base, experts, model = steered("bert")
    inputs = inputs_of(base)
    order = [2, 0, 1]
    turned = wemoe.upcycle(base, {f"task{t}": experts[f"task{t}"] for t in order}, method="pwemoe", modules="all")
    for mine, theirs in zip(routers_of(model), routers_of(turned), strict=True):
        theirs.fc1.weight.data.copy_(mine.fc1.weight[:, order])
        theirs.fc1.bias.data.copy_(mine.fc1.bias)
        theirs.fc2.weight.data.copy_(mine.fc2.weight[order])
        theirs.fc2.bias.data.copy_(mine.fc2.bias[order])
    by_task = dict(zip(TASKS, PREFERENCES[0], strict=True))
    wemoe.set_preference(model, by_task)
    wemoe.set_preference(turned, by_task)
    torch.testing.assert_close(answers(turned, inputs), answers(model, inputs), atol=1e-5, rtol=1e-5)


# --- what a preference must be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preference", "message"),
    [
        ([0.5, 0.5], r"T = 3, of the tasks \['task0', 'task1', 'task2'\]; found \[2\]"),
        ([[[0.2, 0.3, 0.5]]], r"\[T\] or \[B, T\] .* found \[1, 1, 3\]"),
        (torch.empty(0, 3), r"found \[0, 3\]"),
        ([0.5, 0.5, float("nan")], "finite numbers that are at least 0; found .*nan"),
        ([2.0, -1.0, 0.0], r"at least 0; found \[2.0, -1.0, 0.0\]"),
        ([0.5, 0.3, 0.1], r"sum to 1, or be given with normalize=True; found \[0.5, 0.3, 0.1\], which sums to 0.9"),
        ([[0.2, 0.3, 0.5], [1.0, 1.0, 1.0]], "sum to 1"),
        ({"task0": 0.5, "task1": 0.5}, r"a number for each of the tasks \['task0'"),
        ([[0.5, 0.5], [1.0]], r"numbers \[T\] or \[B, T\]"),
        ("0.2,0.3,0.5", r"numbers \[T\] or \[B, T\]"),
    ],
)
def test_what_is_no_preference_is_refused_and_changes_nothing(preference, message):
    _, _, model = steered(modules="mlp")
    before = wemoe.get_preference(model)
    with pytest.raises(ValueError, match=f"preference must .*{message}"):
        wemoe.set_preference(model, preference)
    assert torch.equal(wemoe.get_preference(model), before)


def test_a_preference_is_normalised_when_asked():
    assert check_preference([2, 1, 1], TASKS, normalize=True).tolist() == [0.5, 0.25, 0.25]
    assert check_preference([[0, 3, 0], [1, 1, 2]], TASKS, normalize=True).tolist() == [[0, 1, 0], [0.25, 0.25, 0.5]]
    with pytest.raises(ValueError, match="a number above 0 to be normalised"):
        check_preference([0, 0, 0], TASKS, normalize=True)


def test_a_fresh_model_has_equal_weights_and_what_is_given_is_copied():
    _, _, model = steered(modules="mlp")
    torch.testing.assert_close(wemoe.get_preference(model), torch.full((3,), 1 / 3))
    mine = torch.tensor(PREFERENCES[0])
    wemoe.set_preference(model, mine)
    mine.zero_()
    wemoe.get_preference(model).zero_()
    torch.testing.assert_close(wemoe.get_preference(model), torch.tensor(PREFERENCES[0]))


def test_only_a_model_that_reads_a_preference_takes_one():
    base = tiny_bert()
    for other in (base, wemoe.upcycle(base, [base])):
        with pytest.raises(TypeError, match=r"made by upcycle\(..., method='pwemoe'\).* found BertModel"):
            wemoe.set_preference(other, [1.0])
    with pytest.raises(ValueError, match="preference belongs to a model of method pwemoe; found one of method wemoe"):
        wemoe.merge_and_unload(wemoe.upcycle(base, [base], router_hidden_layers=0), [1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router_hidden_layers": 0}, "router_hidden_layers must be 1 or 2 where routers read a preference; found 0"),
        ({"batch_reduce": True}, "batch_reduce must be False where routers read a preference"),
        ({"share_router": True}, "share_router, prune_ratio and position_encoding are choices of routers that read"),
        ({"prune_ratio": 0.9}, "not of method pwemoe's"),
        ({"modules": "mlps"}, r"modules must be one of mlp, mlp\+attention, all; found 'mlps'"),
        ({"method": "wemoe", "modules": "all"}, "modules must be 'mlp' where routers read their input"),
    ],
)
def test_choices_that_do_not_go_with_a_preference_are_refused(options, message):
    base = tiny_bert()
    with pytest.raises(ValueError, match=message):
        wemoe.upcycle(base, [base], **{"method": "pwemoe"} | options)


def test_attention_that_is_not_described_is_named():
    base = FAMILIES["distilbert"].make()
    with pytest.raises(ValueError, match=r"modules must be 'mlp' for .*by structure.*family=wemoe.Family"):
        wemoe.upcycle(base, [base], method="pwemoe", modules="mlp+attention")


def test_a_preference_for_each_sample_must_fit_the_batch_and_can_be_no_fold():
    _, _, model = steered()
    wemoe.set_preference(model, PREFERENCES)
    with pytest.raises(ValueError, match="as many rows as the batch has samples, 2; found 3"):
        model(**inputs_of(model, batch=2))
    with pytest.raises(
        ValueError, match=r"preference must be one for all samples, \[T\], to be folded; found \[3, 3\]"
    ):
        wemoe.merge_and_unload(model)
    with pytest.raises(ValueError, match="routing_weights belong to routers that read their input"):
        wemoe.merge_and_unload(model, routing_weights=[0.3] * 3)


def test_torchs_own_attention_takes_one_preference_for_the_batch():
    base = FAMILIES["openclip, tokens first"].make()
    model = wemoe.upcycle(base, experts_of(base), method="pwemoe", modules="all")
    wemoe.set_preference(model, PREFERENCES)
    with pytest.raises(
        ValueError, match=r"MultiheadAttention takes one preference \[T\] for the whole batch; .*\[3, 3\]"
    ):
        output(model, FAMILIES["openclip, tokens first"].inputs())


# --- no stale state -------------------------------------------------------------------------------------------------


def one_router(model):
    return routers_of(model)[0]


def half_steps(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()


CHANGES = {
    "another preference": lambda model: wemoe.set_preference(model, PREFERENCES[1]),
    "the optimiser's step": half_steps,
    "a router's parameter": lambda model: nn.init.normal_(one_router(model).fc2.weight),
    "a router's parameter, behind autograd's back": lambda model: one_router(model).fc2.bias.data.add_(1),
    "another parameter in its place": lambda model: setattr(one_router(model).fc2, "bias", nn.Parameter(torch.ones(3))),
    "a loaded state": lambda model: model.load_state_dict(
        {name: tensor * 1.5 for name, tensor in model.state_dict().items()}
    ),
    "a base weight": lambda model: layers(model)[0].base.weight.add_(1),
    "a task vector": lambda model: layers(model)[0].task_parameters()[0].detach().mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_stale_after(change, mode):
    _, _, model = steered()
    inputs = inputs_of(model)
    wemoe.set_preference(model, PREFERENCES[0])
    with mode():
        before = output(model, inputs)
        assert torch.equal(output(model, inputs), before)
    with torch.no_grad():
        CHANGES[change](model)
    fresh = copy.deepcopy(model)  # copies keep nothing merged
    with mode():
        found = output(model, inputs)
        assert not torch.equal(found, before)
        assert torch.equal(found, output(fresh, inputs))


def test_merged_weights_are_made_once_for_a_preference(monkeypatch):
    _, _, model = steered()
    made = []
    merged = PreferenceLayer.merged
    monkeypatch.setattr(PreferenceLayer, "merged", lambda layer, weights: made.append(layer) or merged(layer, weights))
    inputs = inputs_of(model)
    for _ in range(3):
        answers(model, inputs)
    assert len(made) == len(layers(model))
    wemoe.set_preference(model, PREFERENCES[1])
    answers(model, inputs)
    assert len(made) == 2 * len(layers(model))
    with merging_once():  # with gradients, a step of three batches
        for _ in range(3):
            output(model, inputs)
    assert len(made) == 3 * len(layers(model))


DROPS = {
    "training mode": lambda model: model.train(),
    "another dtype": lambda model: model.double(),
    "another device": lambda model: model.to("meta"),
}


@pytest.mark.parametrize("change", DROPS)
def test_what_is_kept_is_dropped_by(change):
    _, _, model = steered()
    answers(model, inputs_of(model))
    assert len(keeping(model)) == len(layers(model))
    DROPS[change](model)
    assert not keeping(model)


def test_a_preference_for_each_sample_keeps_nothing():
    _, _, model = steered()
    answers(model, inputs_of(model))
    wemoe.set_preference(model, PREFERENCES)
    answers(model, inputs_of(model))
    assert not keeping(model)


class Batches(Dataset):
    """A data set that holds a model, as one that computes features does."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 1

    def __getitem__(self, index):
        torch.manual_seed(index)
        return answers(self.model, inputs_of(self.model))


def test_copies_pickles_and_workers_work_after_a_forward():
    _, _, model = steered()
    wemoe.set_preference(model, PREFERENCES[0])
    torch.manual_seed(0)
    inputs = inputs_of(model)
    with torch.inference_mode():
        expected = output(model, inputs).clone()
    output(model, inputs).sum().backward()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answers(copied, inputs), expected)
        assert torch.equal(wemoe.get_preference(copied), wemoe.get_preference(model))
        wemoe.set_preference(copied, PREFERENCES[1])  # its own
        assert not torch.equal(wemoe.get_preference(copied), wemoe.get_preference(model))
    (found,) = DataLoader(Batches(model), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    # another process may have another number of threads
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_gradients_flow_after_a_forward_in_inference_mode():
    _, _, model = steered()
    inputs = inputs_of(model)
    with torch.inference_mode():
        output(model, inputs)
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # as for a saliency map of a finished model
    given = {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"]}
    output(model, given).sum().backward()
    assert embeddings.grad.abs().max() > 0


# --- part of the model's state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", [PREFERENCES[0], PREFERENCES])
def test_the_preference_is_saved_with_the_model(preference, tmp_path):
    _, _, model = steered()
    wemoe.set_preference(model, preference)
    inputs = inputs_of(model)
    expected = answers(model, inputs)
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path)
    assert torch.equal(wemoe.get_preference(again), wemoe.get_preference(model))
    assert torch.equal(answers(again, inputs), expected)
    assert again.routing_config == model.routing_config
    half = wemoe.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert wemoe.get_preference(half).dtype == torch.float32
    other = steered()[2]
    other.load_state_dict(model.state_dict())
    assert torch.equal(wemoe.get_preference(other), wemoe.get_preference(model))


def test_a_file_holds_each_router_and_the_preference_once(tmp_path):
    from safetensors import safe_open

    _, _, model = steered()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "wemoe.safetensors", "pt") as file:
        names = list(file.keys())
    assert sum("preference" in name for name in names) == 1
    assert sum(".router.fc2.bias" in name for name in names) == len(routers_of(model))


def test_the_model_and_its_card_tell_how_it_is_steered(tmp_path):
    _, _, model = steered()
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "wemoe.set_preference(model, [0.3333, 0.3333, 0.3333], normalize=True)  # task0, task1, task2" in card
    assert "| modules with a router | all |" in card
    assert "2406.09770" in card
    assert "hidden" not in card
    assert "reads=preference, modules=all" in repr(model).split("\n")[1]


def test_a_preference_stays_exact_in_half_precision():
    _, _, model = steered()
    wemoe.set_preference(model, PREFERENCES[0])
    exact = wemoe.get_preference(model)
    assert torch.equal(wemoe.get_preference(model.bfloat16()), exact)
    assert torch.equal(wemoe.get_preference(model.float()), exact)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preference", [PREFERENCES[0], PREFERENCES])
def test_router_gradients_are_those_of_finite_differences(preference):
    _, _, model = steered()
    model.double()
    wemoe.set_preference(model, preference)
    inputs = inputs_of(model)
    routers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = output(model, inputs).square().mean()
    gradients = torch.autograd.grad(loss, routers)
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in routers]
    step = 1e-6

    @torch.no_grad()
    def at(distance):
        for parameter, d in zip(routers, direction, strict=True):
            parameter.add_(distance * d)
        value = output(model, inputs).square().mean()
        for parameter, d in zip(routers, direction, strict=True):
            parameter.sub_(distance * d)
        return value

    expected = (at(step) - at(-step)) / (2 * step)
    found = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)  # central differences: error of step^2


def test_batches_that_share_merged_weights_have_the_gradients_of_their_own():
    _, _, model = steered()
    routers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batches = [inputs_of(model) for _ in range(3)]

    def gradients(batch, **options):
        return torch.autograd.grad(output(model, batch).square().mean(), routers, **options)

    alone = [gradients(batch) for batch in batches]
    with merging_once():
        together = [gradients(batch, retain_graph=True) for batch in batches]
    for found, expected in zip(together, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_shared_weights_follow_the_preference_and_the_routers():
    _, _, model = steered()
    inputs = inputs_of(model)
    with merging_once():
        wemoe.set_preference(model, PREFERENCES[0])
        first = output(model, inputs)
        wemoe.set_preference(model, PREFERENCES[1])
        second = output(model, inputs)
        nn.init.normal_(one_router(model).fc2.bias.data)
        third = output(model, inputs)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert third.requires_grad
    torch.testing.assert_close(third, output(model, inputs))


@pytest.mark.parametrize("preference", [PREFERENCES[0], PREFERENCES])
def test_recomputation_gives_the_same_gradients(preference):
    _, _, model = steered()
    wemoe.set_preference(model.train(), preference)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = inputs_of(model)
    routers = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(output(model, inputs).square().mean(), routers)
    model.activation_checkpointing_enable({"use_reentrant": False})
    found = torch.autograd.grad(output(model, inputs).square().mean(), routers)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_model_writes_at_a_preference_with_and_without_a_cache():
    _, _, model = steered("gpt2")
    prompt = FAMILIES["gpt2"].inputs()["input_ids"][:, :4]
    for preference in (PREFERENCES[0], PREFERENCES):
        wemoe.set_preference(model, preference)
        told = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
        assert torch.equal(model.generate(prompt, **told), model.generate(prompt, **told, use_cache=False))
    wemoe.set_preference(model, PREFERENCES[0])
    beams = model.generate(prompt, **told, num_beams=2)
    assert torch.equal(beams, wemoe.merge_and_unload(model).generate(prompt, **told, num_beams=2))


def test_a_router_maps_the_corners_by_hand():
    base = tiny_bert()
    model = wemoe.upcycle(base, experts_of(base), method="pwemoe", router_hidden_layers=1)
    router = one_router(model)
    router.fc2.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.5, 0.0], [-1.0, 0.0, 4.0]]))
    router.fc2.bias.data.copy_(torch.tensor([0.1, 0.2, 0.3]))
    wemoe.set_preference(model, torch.eye(3))
    expected = torch.tensor([[1.1, 0.2, -0.7], [2.1, 0.7, 0.3], [3.1, 0.2, 4.3]])
    torch.testing.assert_close(router(), expected)
