"""Squared gradients made from what maps receive and what arrives at their outputs: autograd's own, squared."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from points import TiedModel
from tiny_families import FAMILIES, output
from wemoe.merging.squared_gradients import Uses, add_squared_gradients


def squared(model, read):
    """As the library has them, of each of the scalars that `read` gives, added."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    with Uses(parameters.values()) as uses:
        scores = torch.stack(read(model))
    add_squared_gradients(scores, parameters, uses, total)
    return total


def squared_by_autograd(model, read):
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    for score in read(model):
        gradients = torch.autograd.grad(score, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
    return total


def assert_equal(model, read):
    found, expected = squared(model, read), squared_by_autograd(model, read)
    for name, wanted in expected.items():
        # double precision: sums of products in another order
        torch.testing.assert_close(found[name], wanted, atol=1e-14, rtol=1e-9, msg=name)
    return expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_autograds_own(name):
    model = FAMILIES[name].make().double()
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in FAMILIES[name].inputs().items()}
    expected = assert_equal(model, lambda model: [output(model, inputs)[..., k].sin().sum() for k in range(2)])
    assert sum(bool(squares.any()) for squares in expected.values()) > 2 * 6  # maps and norms of two blocks


def test_no_gradient_of_a_weight_is_asked_of_autograd():
    model, tokens = TiedModel().double(), torch.tensor([[1, 2, 2]])
    with Uses(model.parameters()) as uses:
        score = model(tokens).sin().sum()
    weights = [model.embedding.weight, model.inner.weight]
    assert torch.autograd.grad(score, weights, retain_graph=True, allow_unused=True) == (None, None)
    assert [use.kind for use in uses.of(weights[0])] == [F.embedding, F.linear]


class Unusual(nn.Module):
    """Weights that are used in every other way: twice, as they are, before something in place, in part unseen."""

    def __init__(self, **table) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4, **table)
        self.map = nn.Linear(4, 4, bias=False)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        self.double()

    def forward(self, tokens):
        x = self.table(tokens)
        x += 1.0  # in place, on what came straight from a table
        x = self.map(x)
        x.tanh_()
        x = self.frozen(self.map(x)) @ self.map.weight
        with torch.no_grad():
            shift = self.map(x)
        return F.linear(x + shift, weight=self.map.weight).square()


@pytest.mark.parametrize("table", [{}, {"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=str)
def test_a_weight_may_be_used_in_any_way(table):
    model, tokens = Unusual(**table), torch.tensor([[0, 3, 3, 5]])
    expected = assert_equal(model, lambda model: list(model(tokens).sum(dim=(0, 1))))
    assert not expected["unused.weight"].any()
    assert bool(expected["table.weight"][0].any()) == ("padding_idx" not in table)


def test_a_single_vector_has_no_rows():
    assert_equal(nn.Linear(3, 2).double(), lambda model: list(model(torch.arange(3, dtype=torch.float64))))


def test_scaled_products_are_left_to_autograd():
    weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    model = nn.ParameterDict({"weight": weight})
    x, bias = torch.randn(4, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert_equal(model, lambda model: [torch.addmm(bias, x, model["weight"], alpha=alpha).sum() for alpha in (1, 2)])


def test_half_precision_is_squared_in_fp32():
    half = nn.Linear(3, 2).half()
    x = torch.full((1, 3), 2.0**-13, dtype=torch.float16)
    total = {name: torch.zeros(p.shape) for name, p in half.named_parameters()}
    with Uses(half.parameters()) as uses:
        score = (half(x) * 3).sum().view(1)
    add_squared_gradients(score, dict(half.named_parameters()), uses, total)
    assert torch.equal(total["weight"], torch.full((2, 3), 9 * 2.0**-26))  # below float16's smallest number
    assert total["bias"].tolist() == [9.0, 9.0]


def test_inputs_that_are_changed_in_place_are_refused():
    weight, x = nn.Parameter(torch.ones(2, 2)), torch.ones(1, 2)
    with Uses([weight]) as uses:
        score = F.linear(x, weight).sum().view(1)
    x += 1
    with pytest.raises(RuntimeError, match="must not be changed in place"):
        add_squared_gradients(score, {"weight": weight}, uses, {"weight": torch.zeros(2, 2)})


class Doubling(torch.autograd.Function):
    """An operation that differentiates one scalar at a time."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        assert gradient.dim() == 2
        return 2 * gradient


def test_operations_that_know_no_batches_of_gradients_are_differentiated_one_by_one():
    model, x = nn.Linear(3, 11).double(), torch.randn(4, 3, dtype=torch.float64)
    assert_equal(model, lambda model: list(Doubling.apply(model(x)).square().sum(dim=0)))
