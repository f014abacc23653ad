"""Fisher merging: the diagonal by hand and by autograd, what published code has instead, and the weighted average."""

from functools import partial

import pytest
import torch
from torch import nn

import wemoe
from models import fine_tuned
from points import TiedModel
from wemoe.merging.fisher import _groups, _published_scores, _scores, diagonal_fisher


class Logistic(nn.Module):
    """Two classes with the logits (w1 x1 + w2 x2, 0)."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        logit = x @ self.w
        return torch.stack([logit, torch.zeros_like(logit)], dim=-1)


def predict(model, batch, task):
    return model(batch)


def exact(model, batches, max_outcomes=64, examples=256):
    scores = partial(_scores, max_outcomes, torch.Generator().manual_seed(0))
    return diagonal_fisher(model, _groups(batches, "x", examples, split=True), predict, "x", scores)


def published(model, batches):
    return diagonal_fisher(model, _groups(batches, "x", 256, split=False), predict, "x", _published_scores)


X = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 0.0]])
W = torch.tensor([0.5, -1.0])
P = (X @ W).sigmoid()  # of the first class


def test_the_exact_diagonal_is_that_of_logistic_regression():
    # d log p / dw = (1 - p) x for the first class and -p x for the second: E = p (1 - p) x^2
    expected = (P * (1 - P)).unsqueeze(1).mul(X.square()).mean(dim=0)
    for batches in ([X], X.split(1), X.split(2)):
        torch.testing.assert_close(exact(Logistic(0.5, -1.0), batches)["w"], expected)


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["uncertain", "nearly certain"])
@pytest.mark.parametrize("classes", [2, 5])
def test_one_score_less_than_classes_has_the_gradients_of_all(classes, scale):
    logits = (scale * torch.randn(3, classes)).requires_grad_()

    def squares(scores):
        gradients = (torch.autograd.grad(score, logits, retain_graph=True)[0] for score in scores)
        return sum(gradient.square() for gradient in gradients)

    log_p = logits.log_softmax(dim=-1)
    scores = list(_scores(64, torch.Generator(), logits))
    assert len(scores) == 3 * (classes - 1)
    expected = squares((log_p.detach().div(2).exp() * log_p).flatten())
    torch.testing.assert_close(squares(scores), expected, rtol=1e-4, atol=0)  # however small p (1 - p) is


def test_the_published_one_squares_a_sum_and_depends_on_the_batches():
    # gradient of sum_c sqrt(p_c) log p_c, p_c held fixed: (sqrt(p) (1 - p) - sqrt(1 - p) p) x, summed over the batch
    slope = (P.sqrt() * (1 - P) - (1 - P).sqrt() * P).unsqueeze(1) * X
    whole, single = published(Logistic(0.5, -1.0), [X])["w"], published(Logistic(0.5, -1.0), X.split(1))["w"]
    torch.testing.assert_close(whole, slope.sum(dim=0).square() / 3)
    torch.testing.assert_close(single, slope.square().mean(dim=0))
    assert not torch.allclose(whole, single, rtol=0.1)
    assert not torch.allclose(single, exact(Logistic(0.5, -1.0), [X])["w"], rtol=0.1)


def test_sampled_labels_are_right_in_expectation():
    many = X.repeat(2000, 1)
    found = exact(Logistic(0.5, -1.0), many.split(3), max_outcomes=1, examples=len(many))["w"]
    # the mean of 6000 draws whose standard deviation is at most 1.5 times their mean: five of them are 10 %
    torch.testing.assert_close(found, exact(Logistic(0.5, -1.0), [X])["w"], rtol=0.1, atol=0)


def test_positions_are_predictions_of_their_own():
    tokens = X.view(1, 3, 2)  # one sample of three positions
    torch.testing.assert_close(exact(Logistic(0.5, -1.0), [tokens])["w"], 3 * exact(Logistic(0.5, -1.0), [X])["w"])


def test_sampled_labels_of_several_positions_have_no_cross_terms_in_expectation():
    tokens = X.view(1, 3, 2).repeat(4000, 1, 1)
    found = exact(Logistic(0.5, -1.0), tokens.split(1), max_outcomes=0, examples=4000)["w"]
    torch.testing.assert_close(found, 3 * exact(Logistic(0.5, -1.0), [X])["w"], rtol=0.15, atol=0)


def test_only_the_counted_examples_are_read():
    few = exact(Logistic(0.5, -1.0), X.split(2), examples=2)["w"]
    assert torch.equal(few, exact(Logistic(0.5, -1.0), [X[:2]])["w"])
    endless = iter(lambda: X, None)
    assert [size for _, size in _groups(endless, "x", 5, split=False)] == [3, 3]


def test_two_experts_by_hand():
    # both see one sample whose logit is 0, so that p (1 - p) = 1/4 and F = x^2 / 4
    data = {"a": [torch.tensor([[1.0, 2.0]])], "b": [torch.tensor([[3.0, 1.0]])]}
    experts = {"a": Logistic(2.0, -1.0), "b": Logistic(-1.0, 3.0)}

    def merged(**options):
        return wemoe.fisher(Logistic(7.0, 9.0), experts, data, predict, **options).w.detach()

    # F_a = (0.25, 1), F_b = (2.25, 0.25)
    expected = torch.tensor([(0.25 * 2 - 2.25) / 2.5, (-1 + 0.25 * 3) / 1.25])
    torch.testing.assert_close(merged(normalize=False, floor=1e-12), expected)
    # their mean is 3.75 / 4, so that a floor of 0.8 adds 0.75 to each: (1, 1.75) and (3, 1)
    expected = torch.tensor([(1 * 2 - 3) / 4, (-1.75 + 1 * 3) / 2.75])
    torch.testing.assert_close(merged(normalize=False, floor=0.8), expected)
    # their norms are sqrt(17) / 4 and sqrt(82) / 4; divided by them they are (1, 4) / sqrt(17) and (9, 1) / sqrt(82)
    a, b = 17**-0.5, 82**-0.5
    expected = torch.tensor([(a * 2 - 9 * b) / (a + 9 * b), (-4 * a + 3 * b) / (4 * a + b)])
    torch.testing.assert_close(merged(floor=1e-12), expected)


def test_every_parameter_has_its_own_weight_by_hand():
    # first feature seen by the first task only, second by the second one only
    data = {"a": [torch.tensor([[1.0, 0.0]])], "b": [torch.tensor([[0.0, 1.0]])]}
    experts = {"a": Logistic(2.0, 5.0), "b": Logistic(-3.0, 4.0)}
    merged = wemoe.fisher(Logistic(0.0, 0.0), experts, data, predict)
    torch.testing.assert_close(merged.w.detach(), torch.tensor([2.0, 4.0]), atol=1e-4, rtol=0)  # but for the floor


@pytest.mark.parametrize("normalize", [True, False])
def test_sums_over_the_experts_are_their_weighted_mean(normalize):
    base = TiedModel().double()
    experts = {task: fine_tuned(base, seed=t, size=0.5) for t, task in enumerate("xyz")}
    data = {task: [torch.randint(0, 11, (4, 3))] for task in experts}
    weights = {}
    for task, expert in experts.items():
        squares = {name: torch.zeros_like(p) for name, p in expert.named_parameters()}
        for sample in data[task][0].split(1):
            log_p = expert(sample).log_softmax(dim=-1)[0]
            for c in range(11):
                gradients = torch.autograd.grad(log_p[c], list(expert.parameters()), retain_graph=True)
                for name, gradient in zip(squares, gradients, strict=True):
                    squares[name] += log_p[c].detach().exp() * gradient.square() / 4
        norm = torch.cat([x.flatten() for x in squares.values()]).norm() if normalize else 1.0
        weights[task] = {name: x / norm for name, x in squares.items()}
    floor = 0.1 * torch.cat([x.flatten() for by_name in weights.values() for x in by_name.values()]).mean()
    merged = wemoe.fisher(base, experts, data, predict, normalize=normalize, floor=0.1)
    for name, found in merged.named_parameters():
        of_experts = [weights[task][name] + floor for task in experts]
        tensors = [expert.get_parameter(name) for expert in experts.values()]
        expected = sum(w * theta for w, theta in zip(of_experts, tensors, strict=True)) / sum(of_experts)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=name)  # logits are read in fp32


def test_equal_information_gives_the_average():
    # p (1 - p) is the same for w and -w
    experts = {"a": Logistic(1.5, -0.5), "b": Logistic(-1.5, 0.5)}
    merged = wemoe.fisher(Logistic(0.0, 0.0), experts, {"a": [X], "b": [X]}, predict)
    torch.testing.assert_close(merged.w.detach(), torch.zeros(2), atol=1e-6, rtol=0)


def test_without_normalisation_the_more_informed_task_counts_more():
    experts = {"a": Logistic(1.0, 1.0), "b": Logistic(-1.0, -1.0)}
    data = {"a": [X], "b": [3 * X]}

    def merged(normalize):
        return wemoe.fisher(Logistic(0.0, 0.0), experts, data, predict, normalize=normalize).w.detach()

    information = [exact(experts[task], data[task])["w"] for task in experts]
    a, b = information
    torch.testing.assert_close(merged(False), (a - b) / (a + b), atol=1e-5, rtol=0)
    a, b = a / a.norm(), b / b.norm()
    torch.testing.assert_close(merged(True), (a - b) / (a + b), atol=1e-5, rtol=0)


def test_a_large_floor_gives_the_average():
    experts = {"a": Logistic(1.0, 5.0), "b": Logistic(3.0, -1.0)}
    merged = wemoe.fisher(Logistic(0.0, 0.0), experts, {"a": [X], "b": [2 * X]}, predict, floor=1e6)
    torch.testing.assert_close(merged.w.detach(), torch.tensor([2.0, 2.0]), atol=1e-4, rtol=0)


def test_parameters_that_nothing_depends_on_are_averaged():
    class WithUnused(Logistic):
        def __init__(self, *weights):
            super().__init__(*weights)
            self.unused = nn.Parameter(torch.tensor(weights[0]))

    experts = {"a": WithUnused(1.0, 2.0), "b": WithUnused(5.0, 2.0)}
    merged = wemoe.fisher(WithUnused(0.0, 0.0), experts, {"a": [X], "b": [X]}, predict, normalize=False)
    assert merged.unused.item() == pytest.approx(3.0)


def test_tied_parameters_and_frozen_ones_have_their_information():
    base = TiedModel()
    experts = {"x": fine_tuned(base, 1), "y": fine_tuned(base, 2).requires_grad_(False)}
    data = {task: [torch.randint(0, 11, (4, 3))] for task in experts}
    merged = wemoe.fisher(base, experts, data, predict, examples=4)
    assert merged.decoder.weight is merged.embedding.weight
    assert not torch.allclose(merged.embedding.weight, wemoe.average(base, experts).embedding.weight, atol=1e-3)


def test_the_seed_decides_the_sampled_labels():
    experts = {"a": Logistic(1.0, 5.0), "b": Logistic(3.0, -1.0)}

    def run(seed):
        batches = {"a": [X], "b": [X]}
        return wemoe.fisher(Logistic(0.0, 0.0), experts, batches, predict, max_outcomes=0, seed=seed).w

    first = run(1)
    assert torch.equal(first, run(1))
    assert any(not torch.equal(first, run(seed)) for seed in range(2, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "diagonal"}, "estimator must be 'exact' or 'published'; found 'diagonal'"),
        ({"examples": 0}, "examples must be at least 1; found 0"),
        ({"max_outcomes": -1}, "max_outcomes must be at least 0; found -1"),
        ({"floor": 0.0}, "floor must be positive and finite; found 0.0"),
        ({"batches": {"b": [X]}}, r"batches must hold batches for every expert; missing: \['a'\]"),
        ({"batches": {"a": []}}, r"batches\['a'\] must hold at least one sample; found none"),
        ({"batches": {"a": [torch.zeros(2, 2)]}}, "Fisher information of task 'a' must be finite and not all zero"),
        ({"predict": lambda m, b, t: m(b)[:, :1]}, "two classes or more for task 'a'; found one"),
    ],
)
def test_bad_options_and_data_are_refused(options, message):
    arguments = {"batches": {"a": [X]}, "predict": predict} | options
    with pytest.raises(ValueError, match=message):
        wemoe.fisher(Logistic(0.0, 0.0), {"a": Logistic(1.0, 1.0)}, **arguments)
