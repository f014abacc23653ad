"""Test-time adaptation: objectives by hand, streams that never end, collapse watched, runs resumed to the last bit."""

import json
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import wemoe
from models import VOCABULARY, experts_of, tiny_bert
from wemoe.adaptation.collapse import WINDOW, CollapseWatch
from wemoe.adaptation.objectives import entropy, infomax, match
from wemoe.adaptation.state import Settings
from wemoe.adaptation.streams import Stream, open_streams

CLASSES = {"task0": 2, "task1": 3}


@pytest.fixture
def setting():
    """A routed model of two tasks, their streams, how to read them, and their experts."""
    base = tiny_bert()
    experts = experts_of(base, tasks=2)
    heads = {task: nn.Linear(16, classes).requires_grad_(False) for task, classes in CLASSES.items()}
    texts = {task: torch.randint(1, VOCABULARY, (12, 6)) for task in CLASSES}

    def predict(model, batch, task):
        return heads[task](model(input_ids=batch).last_hidden_state.mean(dim=1))

    def streams():
        return {task: DataLoader(texts[task], batch_size=4, shuffle=True) for task in CLASSES}

    return wemoe.upcycle(base, experts), streams, predict, experts


def run(setting, **options):
    model, streams, predict, experts = setting
    options = {"steps": 6, "learning_rate": 1e-2, "progress": False, "experts": experts} | options
    return wemoe.adapt(model, streams(), predict, **options)


def routers(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


LOGITS = torch.log(torch.tensor([[0.5, 0.5], [0.8, 0.2]]))
H_EVEN, H_UNEVEN = 0.6931472, 0.5004024  # -(.5 ln .5 + .5 ln .5), -(.8 ln .8 + .2 ln .2)


def test_entropy_by_hand():
    assert entropy(LOGITS, None).item() == pytest.approx((H_EVEN + H_UNEVEN) / 2, abs=1e-6)


def test_entropy_of_hugely_confident_logits_is_exact_and_has_a_finite_gradient():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = entropy(logits, None)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(1, 3))


def test_infomax_by_hand():
    mean = 0.6474466  # entropy of (0.65, 0.35)
    assert infomax(LOGITS, None).item() == pytest.approx((H_EVEN + H_UNEVEN) / 2 - mean, abs=1e-6)


def test_match_by_hand():
    expert = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # a certain expert: 0 ln 0 counts as 0
    # KL = 0 for the first; ln(1 / 0.8) = 0.2231436 for the second
    assert match(LOGITS, expert).item() == pytest.approx(0.2231436 / 2, abs=1e-6)
    assert match(LOGITS, LOGITS.exp()).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("objective", ["match", "entropy", "infomax"])
def test_every_objective_falls_and_moves_routers_only(setting, objective):
    model = setting[0]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = run(setting, objective=objective, steps=30).history
    first, last = (sum(r["loss"] for r in part) for part in (history[:5], history[-5:]))
    assert last < first
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(routers(model))


def test_one_step_is_adams_on_the_sum_of_the_tasks_losses(setting):
    model, streams, predict, _ = setting
    trained = [p for p in model.parameters() if p.requires_grad]
    batches = {task: next(iter(stream)) for task, stream in streams().items()}
    loss = sum(entropy(predict(model, batch, task), None) for task, batch in batches.items())
    gradients = torch.autograd.grad(loss, trained)
    # Adam's first step is lr * g / (|g| + eps), whatever the size of g
    expected = [p.detach() - 1e-2 * g / (g.abs() + 1e-8) for p, g in zip(trained, gradients, strict=True)]
    repeated = {task: [batch] for task, batch in batches.items()}
    history = run((model, lambda: repeated, predict, {}), objective="entropy", steps=1).history
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for found, wanted, g in zip(trained, expected, gradients, strict=True):
        sure = g.abs() > 1e-6  # below, the sign of g is rounding
        torch.testing.assert_close(found.detach()[sure], wanted[sure], atol=1e-4, rtol=0)


def test_the_record_of_a_step_is_complete_and_logged(setting, tmp_path):
    result = run(setting, steps=2, log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [record["step"] for record in lines] == [1, 2]
    for record in lines:
        assert record["loss"] == pytest.approx(sum(record["losses"].values()))
        assert all(0 <= record["entropy"][task] <= torch.log(torch.tensor(c)) + 1e-6 for task, c in CLASSES.items())
        assert record["diversity"].keys() == CLASSES.keys()


def test_two_runs_of_one_seed_are_equal_to_the_last_bit(setting):
    model, start = setting[0], routers(setting[0])
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # what came before must not matter
        model.load_state_dict(start, strict=False)
        history = run(setting, seed=5).history
        results.append((history, routers(model)))
    (first, first_routers), (second, second_routers) = results
    assert first == second
    assert all(torch.equal(first_routers[name], second_routers[name]) for name in start)


def test_the_callers_random_state_and_modes_are_restored(setting):
    model, experts = setting[0], setting[3]
    model.train()
    model.pooler.eval()
    experts["task0"].train()
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    run(setting, steps=1)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert not model.pooler.training
    assert experts["task0"].training


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_interrupted_run_goes_on_to_the_same_bits(setting, tmp_path, schedule):
    model, streams, predict, experts = setting
    start = routers(model)
    whole = run(setting, steps=8, schedule=schedule)
    expected = routers(model)

    model.load_state_dict(start, strict=False)
    calls = 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 4 * len(CLASSES) * 2 - 1:  # model and expert of both tasks: in the middle of step 4
            raise KeyboardInterrupt
        return predict(*arguments)

    file = tmp_path / "adapt.pt"
    with pytest.raises(KeyboardInterrupt):
        run((model, streams, interrupted, experts), steps=8, schedule=schedule, checkpoint=file)
    resumed = run(setting, steps=8, schedule=schedule, checkpoint=file)
    assert resumed.history == whole.history
    assert all(torch.equal(routers(model)[name], expected[name]) for name in expected)
    assert run(setting, steps=8, schedule=schedule, checkpoint=file).history == whole.history  # nothing left to do


def test_a_checkpoint_of_another_run_is_refused(setting, tmp_path):
    file = tmp_path / "adapt.pt"
    run(setting, steps=2, checkpoint=file)
    with pytest.raises(ValueError, match=r"of the same settings; found learning_rate: 0.01, here 0.5"):
        run(setting, steps=2, checkpoint=file, learning_rate=0.5)
    other = wemoe.upcycle(tiny_bert(), experts_of(tiny_bert(), tasks=2), router_hidden_layers=1)
    with pytest.raises(ValueError, match="must hold this model's routers; found others"):
        run((other, *setting[1:]), steps=2, checkpoint=file)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_refused(setting, tmp_path, content):
    file = tmp_path / "adapt.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="must be one that adapt saved"):
        run(setting, checkpoint=file)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_work(setting, tmp_path):
    (tmp_path / "file").write_text("")
    model, streams, _, experts = setting

    def fail(*_):
        raise AssertionError("work began")

    with pytest.raises(NotADirectoryError, match="must be a folder; found a file there"):
        run((model, streams, fail, experts), checkpoint=tmp_path / "file" / "adapt.pt")


def test_a_pickle_that_would_run_code_is_refused(setting, tmp_path):
    import os

    class Malice:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"settings": Malice()}, tmp_path / "adapt.pt")
    with pytest.raises(ValueError, match="must be one that adapt saved"):
        run(setting, checkpoint=tmp_path / "adapt.pt")
    assert not (tmp_path / "owned").exists()


def test_positions_that_do_not_count_are_left_out(setting):
    model, streams, _, _ = setting
    heads = {task: nn.Linear(16, classes) for task, classes in CLASSES.items()}
    seen = []

    def per_token(model, batch, task):
        logits = heads[task](model(input_ids=batch).last_hidden_state)  # [B, N, C]
        valid = torch.zeros(batch.shape, dtype=torch.bool)
        valid[:, 0] = True
        seen.append((task, logits[:, 0].detach()))
        return logits, valid

    history = run((model, streams, per_token, {}), objective="entropy", steps=1).history
    for task, logits in seen:
        assert history[0]["entropy"][task] == pytest.approx(entropy(logits, None).item(), rel=1e-6)


def test_experts_may_be_functions_of_the_batch(setting):
    model, streams, predict, experts = setting
    start = routers(model)
    by_model = run(setting, steps=2).history
    model.load_state_dict(start, strict=False)
    functions = {task: lambda batch, t=task: predict(experts[t].eval(), batch, t) for task in experts}
    assert run((model, streams, predict, functions), steps=2).history == by_model


def test_collapse_is_warned_of_once_and_reported(setting):
    watch = CollapseWatch("x")
    even, one_class = torch.zeros(8, 2), torch.tensor([[20.0, 0.0]]).expand(8, 2)
    for _ in range(WINDOW):
        assert watch.observe(even) == pytest.approx(H_EVEN, abs=1e-6)
    with pytest.warns(wemoe.CollapseWarning, match=r"task 'x' is collapsing: .* from 0.693 to .* are in class 0"):
        [watch.observe(one_class) for _ in range(WINDOW)]
    assert watch.collapsed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.observe(one_class)


def test_adapt_reports_a_collapse(setting):
    model, streams, _, _ = setting
    biases = {task: nn.Parameter(torch.zeros(classes)) for task, classes in CLASSES.items()}
    model.requires_grad_(False)
    model.extra = nn.ParameterDict(biases)

    def predict(model, batch, task):  # nothing but the bias decides: entropy is minimal in one class
        return 0.3 * torch.randn(batch.shape[0], CLASSES[task]) + model.extra[task]

    with pytest.warns(wemoe.CollapseWarning):
        result = run((model, streams, predict, {}), objective="entropy", steps=60, learning_rate=0.3)
    assert set(result.collapsed) <= CLASSES.keys()
    assert result.collapsed


def test_streams_start_again_and_cache_nothing():
    stream = Stream("x", DataLoader(torch.arange(4), batch_size=2))
    assert [stream.draw().tolist() for _ in range(5)] == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
    assert stream.drawn == 5


def test_skipping_draws_in_the_order_of_the_steps():
    opened = open_streams({"a": [1, 2, 3], "b": [4, 5]}, skip=2)
    assert [opened["a"].draw(), opened["b"].draw()] == [3, 4]


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ({"a": []}, r"streams\['a'\] .* found an empty stream"),
        ({"a": iter([1, 2])}, r"streams\['a'\] .* it ended after 2 batches"),
    ],
)
def test_a_stream_that_runs_dry_is_named(streams, message):
    stream = open_streams(streams, skip=0)["a"]
    with pytest.raises(ValueError, match=message):
        [stream.draw() for _ in range(3)]


def test_the_cosine_schedule_ends_at_zero():
    settings = Settings(("a",), "entropy", 10, 1.0, "cosine", 0)
    assert [round(settings.rate(step), 6) for step in (0, 5, 10)] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "hope"}, "objective must be one of .* found 'hope'"),
        ({"schedule": "linear"}, "schedule must be one of .* found 'linear'"),
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive and finite; found -1.0"),
        ({"experts": {"task0": nn.Identity()}}, r"experts lacks \['task1'\]"),
        ({"experts": None}, r"experts lacks \['task0', 'task1'\]"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1; found 0"),
    ],
)
def test_options_out_of_range_are_refused(setting, options, message):
    with pytest.raises(ValueError, match=message):
        run(setting, **options)


def test_bad_streams_predictions_and_models_are_refused(setting):
    model, streams, predict, experts = setting
    with pytest.raises(TypeError, match="streams must map task names to batches; found list"):
        wemoe.adapt(model, [1], predict, objective="entropy", progress=False)
    with pytest.raises(ValueError, match="streams must hold at least one task"):
        wemoe.adapt(model, {}, predict, objective="entropy", progress=False)
    with pytest.raises(TypeError, match=r"predict must give logits \[..., C\] for task 'task0'; found str"):
        run((model, streams, lambda *_: "logits", experts), objective="entropy")
    with pytest.raises(ValueError, match="the loss of task 'task0' must be finite; found nan"):
        run((model, streams, lambda m, b, t: predict(m, b, t) * torch.nan, experts), objective="entropy")
    with pytest.raises(ValueError, match="the expert of task 'task0' must give logits like the model's"):
        run((model, streams, predict, dict.fromkeys(CLASSES, lambda batch: torch.ones(4, 9))))
    with pytest.raises(ValueError, match="must have parameters that require gradients"):
        run((tiny_bert().requires_grad_(False), streams, predict, experts))
