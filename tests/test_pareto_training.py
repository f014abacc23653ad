"""Training preference routers: one step by hand, the scalarization's share in it, runs resumed to the last bit."""

import json
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model

import wemoe
from models import VOCABULARY, experts_of, inputs_of, tiny_bert, tiny_clip
from tiny_suite import tiny_suite
from wemoe.pareto import train
from wemoe.pareto.rays import sample_ray
from wemoe.pareto.state import Settings
from wemoe.preference_layers import PreferenceLayer

CLASSES = {"task0": 2, "task1": 3}


@pytest.fixture
def setting():
    """A routed model of two tasks, their labelled batches, and their losses; the experts' answers are the labels."""
    base = tiny_bert()
    experts = experts_of(base, tasks=2)
    heads = {task: nn.Linear(16, classes).requires_grad_(False) for task, classes in CLASSES.items()}
    texts = {task: torch.randint(1, VOCABULARY, (24, 6)) for task in CLASSES}

    def logits(model, texts, task):
        return heads[task](10 * model(input_ids=texts).last_hidden_state.mean(dim=1))

    def loss(model, batch, task):
        return F.cross_entropy(logits(model, batch[0], task), batch[1])

    with torch.no_grad():
        labels = {task: logits(experts[task], texts[task], task).argmax(dim=-1) for task in CLASSES}

    def loaders():
        return {
            task: DataLoader(TensorDataset(texts[task], labels[task]), batch_size=8, shuffle=True) for task in CLASSES
        }

    return wemoe.upcycle(base, experts, method="pwemoe", progress=False), loaders, loss


def run(setting, **options):
    model, loaders, loss = setting
    return train(model, loaders(), loss, **{"steps": 6, "progress": False} | options)


def routers(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def rays(steps, seed=0, tasks=2):
    generator = torch.Generator().manual_seed(seed)
    return [sample_ray(tasks, 1.0, generator) for _ in range(steps)]


def one_batch(setting):
    """The setting with one batch of each task, again and again, and these batches."""
    model, loaders, loss = setting
    batches = {task: next(iter(loader)) for task, loader in loaders().items()}
    return (model, lambda: {task: [batch] for task, batch in batches.items()}, loss), batches


# --- one step -------------------------------------------------------------------------------------------------------


def jacobian_by_hand(setting, batches):
    """At the first ray: the losses [T] and their gradients by the routers, each from a graph of its own."""
    model, _, loss = setting
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = wemoe.get_preference(model)
    wemoe.set_preference(model, rays(1)[0])
    losses = [loss(model, batches[task], task) for task in CLASSES]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]) for value in losses]
    wemoe.set_preference(model, before)
    return torch.stack(losses).detach(), torch.stack(rows)


def check_adams_first_step(model, before, gradient):
    """Adam's first step is lr * g / (|g| + eps), whatever the size of g."""
    moved = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    start = torch.cat([p.flatten() for p in before.values()])
    sure = gradient.abs() > 1e-6  # below, the sign of g is rounding
    assert sure.float().mean() > 0.3  # or the test says little
    expected = start - 1e-2 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(moved[sure], expected[sure], atol=1e-4, rtol=0)


def test_a_linear_step_is_adams_on_the_losses_weighted_by_the_preference(setting):
    setting, batches = one_batch(setting)
    losses, jacobian = jacobian_by_hand(setting, batches)
    before = routers(setting[0])
    (record,) = run(setting, steps=1).history
    check_adams_first_step(setting[0], before, rays(1)[0] @ jacobian)
    assert list(record["ray"].values()) == list(record["weights"].values()) == rays(1)[0].double().tolist()
    torch.testing.assert_close(torch.tensor(list(record["losses"].values())), losses)
    assert record["loss"] == pytest.approx((rays(1)[0] @ losses).item(), rel=1e-6)


def test_a_scalarization_sees_losses_gram_matrix_and_ray_and_decides_the_step(setting):
    setting, batches = one_batch(setting)
    losses, jacobian = jacobian_by_hand(setting, batches)
    before, seen = routers(setting[0]), []

    def own(*arguments):
        seen.extend(arguments)
        return torch.tensor([2.0, -0.5])

    (record,) = run(setting, steps=1, scalarization=own).history
    torch.testing.assert_close(seen[0].float(), losses)
    torch.testing.assert_close(seen[1].float(), jacobian @ jacobian.T, rtol=1e-4, atol=0)  # sums of products in fp32
    assert torch.equal(seen[2].float(), rays(1)[0])
    check_adams_first_step(setting[0], before, torch.tensor([2.0, -0.5]) @ jacobian)
    assert record["weights"] == {"task0": 2.0, "task1": -0.5}


def test_the_losses_of_a_step_share_one_merge(setting, monkeypatch):
    model, merges = setting[0], []
    merged = PreferenceLayer.merged
    monkeypatch.setattr(PreferenceLayer, "merged", lambda *args: merges.append(args[0]) or merged(*args))
    run(setting, steps=3)
    layers = [module for module in model.modules() if isinstance(module, PreferenceLayer)]
    assert Counter(map(id, merges)) == dict.fromkeys(map(id, layers), 3)


def test_the_memory_of_one_tasks_graph_is_given_back_before_the_next(setting):
    model, loaders, loss = setting
    alive = []

    def watched(model, batch, task):
        assert all(reference() is None for reference in alive)
        value = loss(model, batch, task)
        alive.append(weakref.ref(value))
        return value

    run((model, loaders, watched), steps=2)
    assert len(alive) == 4


# --- what a run does ------------------------------------------------------------------------------------------------


def tiny_gpt2():
    settings = {"vocab_size": VOCABULARY, "n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return GPT2Model(GPT2Config(**settings, bos_token_id=1, eos_token_id=1)).eval()


@pytest.mark.parametrize(
    ("make", "modules", "scalarization"),
    [(tiny_bert, "all", "ls"), (tiny_bert, "mlp", "epo"), (tiny_clip, "all", "epo"), (tiny_gpt2, "all", "ls")],
)
def test_training_moves_routers_only_and_makes_a_preference_count(make, modules, scalarization):
    """Two tasks that pull against each other: to compute what this or that expert computes, of the same inputs."""
    base = make()
    experts, batch = experts_of(base, tasks=2), inputs_of(tiny_clip() if make is tiny_clip else tiny_bert(), 8)
    with torch.no_grad():
        targets = {task: expert(**batch).last_hidden_state for task, expert in experts.items()}
    model = wemoe.upcycle(base, experts, method="pwemoe", modules=modules, progress=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(model, batch, task):
        return F.mse_loss(model(**batch).last_hidden_state, targets[task])

    options = {"steps": 100, "learning_rate": 3e-2, "scalarization": scalarization, "progress": False}
    result = train(model, {task: [batch] for task in targets}, loss, **options)
    assert result.fallbacks == {}
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= set(routers(model))
    corners = []
    for corner in ([1.0, 0.0], [0.0, 1.0]):
        wemoe.set_preference(model, corner)
        with torch.no_grad():
            corners.append([loss(model, batch, task).item() for task in targets])
    assert corners[0][0] < corners[1][0]
    assert corners[1][1] < corners[0][1]


def test_a_suites_streams_and_loss_are_trained_on():
    suite = tiny_suite()
    model = wemoe.upcycle(suite.base, suite.experts, method="pwemoe", progress=False)
    before = suite.measure(model).losses
    result = train(model, suite.labelled_streams(8, seed=0), suite.loss, steps=30, progress=False)
    assert result.history[0]["losses"].keys() == suite.tasks.keys()
    after = suite.measure(model).losses  # at equal weights, the mean of the preferences that it was trained for
    assert sum(after.values()) < sum(before.values())


def test_a_headed_model_is_trained_through_its_backbone(setting):
    config = BertConfig(**tiny_bert().config.to_dict() | {"num_labels": 2})
    model = wemoe.with_head(setting[0], BertForSequenceClassification(config).eval())
    batch = {"input_ids": torch.randint(1, VOCABULARY, (8, 6)), "labels": torch.arange(8) % 2}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(
        model, {task: [batch] for task in CLASSES}, lambda model, batch, _: model(**batch).loss, steps=2, progress=False
    )
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= set(routers(model))
    assert torch.equal(wemoe.get_preference(setting[0]), torch.tensor([0.5, 0.5]))


def test_losses_may_be_given_by_task(setting):
    model, loaders, loss = setting
    start = routers(model)
    together = run(setting, seed=2).history
    model.load_state_dict(start, strict=False)
    by_task = {task: lambda model, batch, task=task: loss(model, batch, task) for task in reversed(CLASSES)}
    assert run((model, loaders, by_task), seed=2).history == together


def test_the_record_of_a_step_is_complete_and_logged(setting, tmp_path):
    result = run(setting, steps=3, log=tmp_path / "log.jsonl", seed=4, scalarization="epo")
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == result.history
    assert [record["step"] for record in result.history] == [1, 2, 3]
    for record, ray in zip(result.history, rays(3, seed=4), strict=True):
        assert list(record["ray"].values()) == ray.double().tolist()
        products = torch.tensor([record["ray"][task] * record["losses"][task] for task in CLASSES])
        shares = products / products.sum()
        divergence = (shares * (2 * shares).log()).sum()  # from equal shares, by hand
        assert record["non_uniformity"] == pytest.approx(divergence.item(), abs=1e-6)
        assert sum(record["weights"].values()) == pytest.approx(2)  # EPO's sum to T
        assert record["fallbacks"] == {}


def test_negative_losses_have_no_distance_from_a_ray(setting):
    model, loaders, loss = setting
    history = run((model, loaders, lambda *args: loss(*args) - 100), steps=2).history
    assert [record["non_uniformity"] for record in history] == [None, None]


def test_what_a_scalarization_fell_back_on_is_counted(setting):
    class Falling:
        def __init__(self):
            self.fallbacks = Counter({"earlier": 5})
            self.calls = 0

        def __call__(self, losses, gram, ray):
            self.calls += 1
            if self.calls % 2 == 0:
                self.fallbacks["infeasible"] += 1
            return ray

    result = run(setting, steps=5, scalarization=Falling())
    assert result.fallbacks == {"infeasible": 2}
    assert [record["fallbacks"] for record in result.history] == [{}, {"infeasible": 1}, {}, {"infeasible": 1}, {}]


def test_the_learning_rate_falls_by_a_cosine_to_a_tenth():
    settings = Settings(("a",), "ls", 4000, 1e-2, 0.1, 1.0, 0)
    # (1e-2 - 1e-3) (1 + cos) / 2 + 1e-3, at 0, a half and the end
    assert [settings.rate(step) for step in (0, 2000, 4000)] == pytest.approx([1e-2, 5.5e-3, 1e-3], rel=1e-12)
    constant = Settings(("a",), "ls", 4000, 1e-2, 1.0, 1.0, 0)
    assert [constant.rate(step) for step in (0, 2000, 4000)] == [1e-2] * 3


# --- seeds, states, resuming ----------------------------------------------------------------------------------------


def test_two_runs_of_one_seed_are_equal_to_the_last_bit(setting):
    model, start = setting[0], routers(setting[0])
    results = []
    for noise, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(noise)  # what came before must not matter
        model.load_state_dict(start, strict=False)
        history = run(setting, seed=seed, scalarization="epo").history
        results.append((history, routers(model)))
    (first, first_routers), (second, second_routers), (other, _) = results
    assert first == second
    assert all(torch.equal(first_routers[name], second_routers[name]) for name in start)
    assert other[0]["ray"] != first[0]["ray"]


def test_the_callers_random_state_modes_and_preference_are_restored(setting):
    model, loaders, loss = setting
    preference = torch.tensor([0.25, 0.75])
    wemoe.set_preference(model, preference)
    model.train()
    model.pooler.eval()
    torch.manual_seed(9)
    expected = torch.rand(1)

    def failing(model, batch, task):
        assert not any(module.training for module in model.modules())
        if task == "task1":
            raise KeyError("a user's mistake")
        return loss(model, batch, task)

    for losses, raised in ((loss, None), (failing, KeyError)):
        torch.manual_seed(9)
        if raised is None:
            run(setting, steps=1)
        else:
            with pytest.raises(raised):
                run((model, loaders, losses), steps=1)
        assert torch.equal(torch.rand(1), expected)
        assert torch.equal(wemoe.get_preference(model), preference)
        assert model.training
        assert not model.pooler.training


@pytest.mark.parametrize("scalarization", ["ls", "epo"])
def test_an_interrupted_run_goes_on_to_the_same_bits(setting, tmp_path, scalarization):
    model, loaders, loss = setting
    start, file = routers(model), tmp_path / "train.pt"
    whole = run(setting, steps=8, scalarization=scalarization)
    expected = routers(model)
    model.load_state_dict(start, strict=False)
    calls = 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 4 * len(CLASSES):  # the last loss of step 4
            raise KeyboardInterrupt
        return loss(*arguments)

    options = {"steps": 8, "scalarization": scalarization, "checkpoint": file}
    with pytest.raises(KeyboardInterrupt):
        run((model, loaders, interrupted), **options)
    resumed = run(setting, **options)
    assert resumed.history == whole.history
    assert all(torch.equal(routers(model)[name], expected[name]) for name in expected)
    assert run(setting, **options).history == whole.history  # nothing left to do


def test_a_checkpoint_of_another_run_is_refused(setting, tmp_path):
    file = tmp_path / "train.pt"
    run(setting, steps=2, checkpoint=file)
    with pytest.raises(ValueError, match=r"of the same settings; found scalarization: 'ls', here 'epo'$"):
        run(setting, steps=2, checkpoint=file, scalarization="epo")
    with pytest.raises(ValueError, match=r"of the same settings; found concentration: 1.0, here 0.5$"):
        run(setting, steps=2, checkpoint=file, concentration=0.5)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"must be one that wemoe.pareto.train saved; found"):
        run(setting, steps=2, checkpoint=file)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scalarization": "hope"}, "scalarization must be one of .* found 'hope'"),
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite; found 0.0"),
        ({"final_rate": 1.5}, r"final_rate must be in \[0, 1\]; found 1.5"),
        ({"concentration": 0.0}, "concentration must be positive and finite; found 0.0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1; found 0"),
        ({"scalarization": lambda *_: torch.ones(3)}, "a finite weight for each of 2 losses; found"),
        ({"scalarization": lambda *_: torch.tensor([1.0, torch.nan])}, "a finite weight for each of 2 losses; found"),
    ],
)
def test_options_out_of_range_are_refused(setting, options, message):
    with pytest.raises(ValueError, match=message):
        run(setting, **options)


def fail(*_):
    raise AssertionError("work began")


def test_tasks_must_be_the_models(setting):
    model, loaders, _ = setting
    with pytest.raises(ValueError, match=r"loaders must be of the model's tasks, \['task0', 'task1'\]; found \['x'\]"):
        train(model, {"x": [1]}, fail, progress=False)
    with pytest.raises(TypeError, match="loaders must map task names; found list"):
        train(model, [1], fail, progress=False)
    with pytest.raises(ValueError, match=r"losses must be of the model's tasks, \['task0', 'task1'\]; found \['x'\]"):
        train(model, loaders(), {"x": fail}, progress=False)
    with pytest.raises(ValueError, match=r"loaders\['task0'\] must yield batches .* found an empty stream"):
        train(model, {"task0": [], "task1": []}, fail, progress=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda loss: loss.expand(4), TypeError, r"the loss of task 'task0' must be a scalar tensor; found shape \(4,"),
        (lambda loss: loss.item(), TypeError, "the loss of task 'task0' must be a scalar tensor; found float"),
        (
            lambda loss: loss * torch.nan,
            ValueError,
            "the loss of task 'task0' must be finite; found nan at its batch 1",
        ),
        (lambda loss: loss.detach(), ValueError, "the loss of task 'task0' must depend on what is trained"),
        (lambda loss: (loss - loss).sqrt(), ValueError, "the gradient of task 'task0' must be finite"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_refused(setting, change, error, message):
    model, loaders, loss = setting
    before = routers(model)
    with pytest.raises(error, match=message):
        run((model, loaders, lambda *arguments: change(loss(*arguments))))
    assert all(torch.equal(p, before[name]) for name, p in routers(model).items())


def test_a_model_without_a_preference_or_without_routers_to_train_is_refused(setting):
    model, loaders, _ = setting
    plain = tiny_bert()
    routed = wemoe.upcycle(plain, experts_of(plain, tasks=2), progress=False)
    for other in (plain, routed):
        with pytest.raises(TypeError, match="must be made by"):
            train(other, loaders(), fail, progress=False)
    with pytest.raises(ValueError, match="must have parameters that require gradients"):
        train(model.requires_grad_(False), loaders(), fail, progress=False)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_work(setting, tmp_path):
    (tmp_path / "file").write_text("")
    model, loaders, _ = setting
    with pytest.raises(NotADirectoryError, match="must be a folder; found a file there"):
        train(model, loaders(), fail, checkpoint=tmp_path / "file" / "train.pt", progress=False)
