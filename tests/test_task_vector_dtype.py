"""Task vectors in half precision beside a base in fp32: half the memory, the results of rounded task vectors."""

import copy

import pytest
import torch
from torch import nn

import wemoe
from models import BASES, experts_of, inputs_of, randomised, tiny_bert
from test_upcycling import output
from wemoe.layers import RoutedLinear
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import reference
from wemoe_ext.testing import assert_close

D, T = 16, 4
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(params=[32, 24], ids=["packed", "plain"])
def linears(request):
    return nn.Linear(D, request.param), [nn.Linear(D, request.param) for _ in range(T)]


@pytest.fixture(params=HALF, ids=str)
def half(request):
    return request.param


def plain_tensors(linears, half):
    base, experts = linears
    return {
        "weight": base.weight.detach(),
        "task_vectors": stack_task_vectors(base.weight, [expert.weight for expert in experts]).to(half),
        "bias": base.bias.detach(),
        "task_biases": stack_task_vectors(base.bias, [expert.bias for expert in experts]).to(half),
    }


def assert_state(layer, expected):
    state = layer.state_dict()
    assert [(name, tensor.dtype) for name, tensor in state.items()] == [(n, t.dtype) for n, t in expected.items()]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_a_layer_computes_with_rounded_task_vectors_and_an_exact_base(linears, half):
    layer = RoutedLinear.from_linears(*linears, task_vector_dtype=half)
    assert layer.is_packed == (layer.out_features == 32)
    plain = plain_tensors(linears, half)
    x = torch.randn(3, 5, D, requires_grad=True)
    routing_weights = torch.randn(3, T, requires_grad=True)
    found = layer(x, routing_weights)
    weights = (plain["weight"], plain["task_vectors"])
    expected = reference.routed_linear(x, *weights, routing_weights, plain["bias"], plain["task_biases"])
    assert_close("y", found, expected)
    grad = torch.randn_like(found)
    for name, mine, theirs in zip(
        ("grad_x", "grad_routing_weights"),
        torch.autograd.grad(found, (x, routing_weights), grad),
        torch.autograd.grad(expected, (x, routing_weights), grad),
        strict=True,
    ):
        assert_close(name, mine, theirs)


def test_a_layer_keeps_both_dtypes_in_copies_and_state_dicts(linears, half):
    layer = RoutedLinear.from_linears(*linears, task_vector_dtype=half)
    plain = plain_tensors(linears, half)
    assert_state(layer, plain)
    assert_state(copy.deepcopy(layer), plain)
    assert_state(layer.to("cpu"), plain)
    for assign in (True, False):
        other = RoutedLinear(D, layer.out_features, T, task_vector_dtype=half)
        other.load_state_dict(layer.state_dict(), assign=assign)
        assert other.is_packed == layer.is_packed
        assert_state(other, plain)
    layer.unpack()
    assert_state(layer, plain)


def test_a_conversion_converts_everything_as_torch_does(linears, half):
    layer = RoutedLinear.from_linears(*linears, task_vector_dtype=half)
    layer.to(torch.bfloat16)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    layer.to(torch.float64)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}
    assert not layer.is_packed


def test_task_vectors_in_fp64_stay_plain(linears):
    layer = RoutedLinear.from_linears(*linears, task_vector_dtype=torch.float64)
    assert not layer.is_packed
    layer(torch.randn(3, 5, D), torch.randn(3, T))


@pytest.mark.parametrize("base", BASES)
def test_a_models_outputs_move_by_what_rounding_explains(base, half):
    base = BASES[base]()
    experts = experts_of(base)
    exact = randomised(wemoe.upcycle(base, experts))
    model = wemoe.upcycle(base, experts, task_vector_dtype=half)
    model.load_state_dict({n: t for n, t in exact.state_dict().items() if ".router." in n}, strict=False)
    inputs = inputs_of(base)
    whole, rounded = output(exact, inputs), output(model, inputs)
    # each of T = 3 task vectors of size 0.1 is off by eps / 2 of itself at most; a dot product of 24 terms, routing
    # weights of order 1 and two blocks of hidden states of order 1 make that 0.1 * 24 * 3 * 2 * eps / 2 at most
    bound = 0.1 * 24 * 3 * 2 * torch.finfo(half).eps / 2
    difference = (rounded - whole).abs().max().item()
    assert 0 < difference < bound


def test_only_the_mlps_task_vectors_are_halved(half):
    base = tiny_bert()
    model = wemoe.upcycle(base, experts_of(base), task_vector_dtype=half)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (half if ".task_" in name else torch.float32)
    whole, less = wemoe.estimate_memory(base, 3), wemoe.estimate_memory(model)
    assert (less.base, less.routers) == (whole.base, whole.routers)
    assert 2 * less.task_vectors == whole.task_vectors


@pytest.mark.parametrize("outputs", [24, 32])
def test_a_saved_model_is_equal_to_the_last_bit_and_keeps_its_dtypes(half, outputs, tmp_path):
    base = tiny_bert(intermediate_size=outputs)
    model = randomised(wemoe.upcycle(base, experts_of(base), task_vector_dtype=half))
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    again = wemoe.from_pretrained(tmp_path)
    assert [(n, p.dtype) for n, p in again.named_parameters()] == [(n, p.dtype) for n, p in model.named_parameters()]
    inputs = inputs_of(base)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_upcycling_in_half_is_loading_in_half(half, tmp_path):
    base = tiny_bert(intermediate_size=32)
    whole = randomised(wemoe.upcycle(base, experts_of(base)))
    whole.save_pretrained(tmp_path)
    model = wemoe.upcycle(base, experts_of(base), task_vector_dtype=half)
    again = wemoe.from_pretrained(tmp_path, task_vector_dtype=half)
    expected = {name: tensor for name, tensor in model.state_dict().items() if ".router." not in name}
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in expected.items())


def test_task_vectors_beyond_the_range_are_refused(linears):
    base, experts = linears
    experts[0].weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"task vectors in float16 must be within \+-65504; found a larger number"):
        RoutedLinear.from_linears(base, experts, task_vector_dtype=torch.float16)
    RoutedLinear.from_linears(base, experts, task_vector_dtype=torch.bfloat16)


def test_what_is_no_dtype_of_weights_is_refused():
    base = tiny_bert()
    with pytest.raises(ValueError, match=r"^task_vector_dtype must be one of \[.*; found torch.int8"):
        wemoe.upcycle(base, experts_of(base), task_vector_dtype=torch.int8)
