"""AdaMerging: task arithmetic until its coefficients are trained, by the objectives of test-time adaptation."""

import copy
import inspect

import pytest
import torch
from torch.func import functional_call

import wemoe
from models import experts_of, fine_tuned
from points import Row, TiedModel
from tiny_families import FAMILIES, output
from wemoe.adaptation import AdaptOptions
from wemoe.adaptation.adamerging import coefficients, fold_coefficients, with_coefficients
from wemoe.adaptation.objectives import entropy
from wemoe.merging.rules import open_sources
from wemoe.merging.ties import elected_task_vectors

TASKS = ("x", "y", "z")
PER = pytest.mark.parametrize("per", ["layer", "task"])


@pytest.fixture
def setting():
    base = TiedModel()
    experts = {task: fine_tuned(base, seed=t, size=0.5) for t, task in enumerate(TASKS)}
    streams = {task: [torch.randint(11, (4, 3)) for _ in range(5)] for task in TASKS}
    return base, experts, streams


def predict(model, batch, task):
    return model(batch)


def run(setting, **options):
    base, experts, streams = setting
    return wemoe.adamerging(base, experts, streams, predict, **{"steps": 5, "progress": False} | options)


@PER
def test_untrained_coefficients_are_task_arithmetic(setting, per):
    base, experts, streams = setting
    model = with_coefficients(base, experts, per=per, init_lambda=0.4)
    folded, expected = fold_coefficients(base, model), wemoe.task_arithmetic(base, experts, 0.4)
    for (name, found), wanted in zip(folded.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0, msg=name)  # sums in another order
    batch = streams["x"][0]
    torch.testing.assert_close(model(batch), expected(batch), atol=1e-5, rtol=0)


def test_coefficients_by_hand():
    base = Row([1.0, 2.0], buffer=[1.0])
    experts = [Row([2.0, 2.0], buffer=[2.0]), Row([4.0, 0.0], buffer=[3.0])]
    model = with_coefficients(base, experts, init_lambda=0.5)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).copy_(torch.tensor([2.0, -1.0]))
    folded = fold_coefficients(base, model)
    assert folded.row.tolist() == [0.0, 4.0]  # (1, 2) + 2 (1, 0) - (3, -2)
    assert folded.running.tolist() == [2.5]  # 1 + 0.5 (1 + 2): buffers have no coefficients
    assert coefficients(model)["row"].tolist() == [2.0, -1.0]


@PER
def test_a_step_by_hand(per):
    # two classes of logits (z, 0) with z = theta . x and x = (1, 1); the entropy's derivative by z is -z p (1 - p)
    base, experts = Row([0.5, 0.0]), {"x": Row([1.5, 1.0]), "y": Row([-1.5, 0.0])}

    def logits(model, batch, task):
        z = batch @ model.row
        return torch.stack([z, torch.zeros_like(z)], dim=-1)

    streams = {"x": [torch.ones(1, 2)]}
    # task vectors (1, 1) and (-2, 0), so z = 0.5 + 0.3 * 2 - 0.3 * 2 > 0: to raise z, Adam's first step moves the
    # first coefficient up by the learning rate, to 0.4, and the second down, to 0.2
    options = {"per": per, "steps": 1, "learning_rate": 0.1, "progress": False}
    merged = wemoe.adamerging(base, experts, streams, logits, **options)
    expected = torch.tensor([0.5 + 0.4 - 2 * 0.2, 0.4])
    torch.testing.assert_close(merged.row.detach(), expected, atol=1e-5, rtol=0)  # but for Adam's eps


def test_a_layer_is_a_parameter_tensor_and_a_task_has_one_coefficient(setting):
    base, experts, _ = setting
    tensors = {name for name, _ in base.named_parameters()} | {"decoder.weight"}  # the embedding's by another name
    for per, count in (("layer", len(tensors) - 1), ("task", 1)):
        model = with_coefficients(base, experts, per=per)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert [tuple(p.shape) for p in trained] == [(3,)] * count
        assert coefficients(model).keys() == tensors


def test_plus_plus_takes_the_elected_entries_of_each_trimmed_task_vector():
    base = Row([0.0, 0.0, 0.0, 0.0])
    experts = {"x": Row([3.0, -2.0, 0.5, 0.1]), "y": Row([1.0, 4.0, 0.2, 0.1])}
    # the larger half is (3, -2) and (1, 4); signs +, +; x loses its -2
    model = with_coefficients(base, experts, density=0.5, init_lambda=1.0)
    assert fold_coefficients(base, model).row.tolist() == [4.0, 4.0, 0.0, 0.0]
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).copy_(torch.tensor([1.0, 0.0]))
    assert fold_coefficients(base, model).row.tolist() == [3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("density", [None, 0.2])
@PER
def test_one_step_is_adams_on_the_sum_of_the_tasks_losses(setting, per, density):
    base, experts, streams = setting
    with open_sources(base, experts) as sources:
        vectors_of = (
            (lambda name: [sources.task_vector(task, name) for task in TASKS])
            if density is None
            else elected_task_vectors(sources, density)
        )
        vectors = {name: vectors_of(name) for name in sources.names}
    lambdas = {name: torch.full((3,), 0.3, requires_grad=True) for name, _ in base.named_parameters()}
    if per == "task":
        lambdas = dict.fromkeys(lambdas, lambdas["inner.weight"])
    merged = {
        name: p.detach() + sum(lambdas[name][t] * tau for t, tau in enumerate(vectors[name]))
        for name, p in base.named_parameters()
    }
    loss = sum(entropy(functional_call(base, merged, streams[task][0]), None) for task in TASKS)
    distinct = list({id(x): x for x in lambdas.values()}.values())
    gradients = dict(zip(map(id, distinct), torch.autograd.grad(loss, distinct), strict=True))

    model = with_coefficients(base, experts, per=per, density=density)
    first = {task: stream[:1] for task, stream in streams.items()}
    wemoe.adapt(model, first, predict, objective="entropy", steps=1, learning_rate=1e-2, progress=False)
    for name, x in lambdas.items():
        g = gradients[id(x)]
        assert ((g == 0) | (g.abs() > 1e-6)).all()  # a smaller one would have a sign by rounding
        # Adam's first step is lr * g / (|g| + eps), whatever the size of g
        torch.testing.assert_close(coefficients(model)[name], 0.3 - 1e-2 * g.sign(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("objective", ["match", "entropy", "infomax"])
@PER
def test_every_objective_falls(setting, objective, per):
    base, experts, streams = setting
    model = with_coefficients(base, experts, per=per)
    options = {"experts": experts, "steps": 30, "learning_rate": 3e-2, "progress": False}
    history = wemoe.adapt(model, streams, predict, objective=objective, **options).history
    first, last = (sum(record["loss"] for record in part) for part in (history[:5], history[-5:]))
    assert last < first


def test_training_moves_the_coefficients_alone_and_is_folded(setting):
    base, experts, streams = setting
    model = with_coefficients(base, experts)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wemoe.adapt(model, streams, predict, objective="entropy", steps=5, learning_rate=1e-2, progress=False)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.endswith(".coefficients")}
    folded = run(setting, learning_rate=1e-2)
    assert type(folded) is TiedModel
    assert folded.decoder.weight is folded.embedding.weight
    batch = streams["y"][0]
    torch.testing.assert_close(folded(batch), model(batch), atol=1e-5, rtol=0)
    assert not torch.allclose(folded.inner.weight, wemoe.task_arithmetic(base, experts).inner.weight, atol=1e-4)


class Saved:
    """One tensor that autograd keeps for backward; counts the numbers kept now, and the most at once."""

    now = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Saved.now += tensor.numel()
        Saved.most = max(Saved.most, Saved.now)

    def __del__(self):
        Saved.now -= self.tensor.numel()


def test_memory_does_not_grow_with_the_tasks_that_are_trained_on(setting):
    base, experts, streams = setting
    peaks = []
    for tasks in (TASKS[:1], TASKS):
        model = with_coefficients(base, experts)
        Saved.now = Saved.most = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            chosen = {task: streams[task] for task in tasks}
            wemoe.adapt(model, chosen, predict, objective="entropy", steps=2, progress=False)
        peaks.append(Saved.most)
    assert peaks[0] == peaks[1] > 0


def test_a_resumed_run_gives_the_same_bits(setting, tmp_path):
    whole = run(setting, steps=6)
    calls = 0

    def interrupted(model, batch, task):
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return model(batch)

    file = tmp_path / "coefficients.pt"
    with pytest.raises(KeyboardInterrupt):
        wemoe.adamerging(*setting, interrupted, steps=6, progress=False, checkpoint=file)
    resumed = run(setting, steps=6, checkpoint=file)
    assert all(torch.equal(x, y) for x, y in zip(resumed.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_reads_merged_weights(name):
    base = FAMILIES[name].make()
    experts = experts_of(base, tasks=2)
    inputs = FAMILIES[name].inputs()
    model = with_coefficients(base, experts)
    found = output(model, inputs)
    torch.testing.assert_close(found, output(wemoe.task_arithmetic(base, experts), inputs), atol=1e-4, rtol=1e-4)
    found.square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.grad is not None and bool(p.grad.any()) for p in trained) >= 2 * 6  # maps and norms of two blocks


def test_adapts_options_are_handed_on_and_others_refused(setting):
    keywords = {
        name: parameter.annotation
        for name, parameter in inspect.signature(wemoe.adapt).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "experts"
    }
    declared = {name: kind.__forward_arg__ for name, kind in AdaptOptions.__annotations__.items()}
    assert declared == keywords
    with pytest.raises(TypeError, match=r"adamerging takes the options of adapt, .* found \['experts', 'step'\]"):
        run(setting, step=1, experts={})


def test_published_options_are_the_defaults(setting):
    spelled = run(setting, objective="entropy", learning_rate=1e-3)
    assert all(torch.equal(x, y) for x, y in zip(run(setting).parameters(), spelled.parameters(), strict=True))
    other = run(setting, objective="match", learning_rate=1e-3)
    assert not torch.equal(other.inner.weight, spelled.inner.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "model"}, "per must be 'layer' or 'task'; found 'model'"),
        ({"density": 0.0}, r"density must be in \(0, 1\]; found 0.0"),
        ({"init_lambda": torch.nan}, "init_lambda must be a finite number; found nan"),
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"objective": "hope"}, "objective must be one of .* found 'hope'"),
    ],
)
def test_options_out_of_range_are_refused(setting, options, message):
    with pytest.raises(ValueError, match=message):
        run(setting, **options)


def test_the_model_with_coefficients_can_be_copied(setting):
    base, experts, streams = setting
    model = with_coefficients(base, experts)
    batch = streams["x"][0]
    assert torch.equal(copy.deepcopy(model)(batch), model(batch))
