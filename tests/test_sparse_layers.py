"""Sparse routed linear maps: the numbers of dense ones of pruned experts, in a seventh of the memory."""

import copy
import pickle
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from wemoe.layers import RoutedLinear
from wemoe.merging.transforms import prune
from wemoe.sparse_layers import SPARSE, SparseRoutedLinear
from wemoe.task_vectors import stack_task_vectors
from wemoe_ext import expand_task_vectors
from wemoe_ext.packing import LINE

B, N, D, T = 3, 5, 70, 4
OUTPUTS = (32, 24)  # whole lines of 16, and one that is filled up


def linears(outputs, bias=True, dtype=torch.float32):
    return [nn.Linear(D, outputs, bias, dtype=dtype) for _ in range(T + 1)]


def sparse_and_dense(outputs=32, ratio=0.9, bias=True, dtype=torch.float32, task_vector_dtype=None):
    """A sparse layer, and a dense one whose task vectors were pruned one by one."""
    base, *experts = linears(outputs, bias, dtype)
    sparse = SparseRoutedLinear.from_linears(base, experts, partial(prune, ratio=ratio), task_vector_dtype)
    dense = RoutedLinear(D, outputs, T, bias, dtype, task_vector_dtype=task_vector_dtype)
    state = {"weight": base.weight, "task_vectors": pruned([base.weight, *(e.weight for e in experts)], ratio)}
    if bias:
        state |= {"bias": base.bias, "task_biases": pruned([base.bias, *(e.bias for e in experts)], ratio)}
    dense.load_state_dict(state)
    return sparse, dense


def pruned(tensors, ratio):
    """Task vectors that are pruned before they are rounded."""
    base, *experts = tensors
    exact = torch.empty(T, *base.shape, dtype=torch.promote_types(base.dtype, torch.float32))
    return torch.stack([prune(tau, ratio) for tau in stack_task_vectors(base, experts, out=exact)])


def with_gradients(layer, x, routing_weights):
    leaves = [x.detach().requires_grad_(), routing_weights.detach().requires_grad_()]
    y = layer(*leaves)
    grad = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_it_computes_what_a_dense_layer_of_pruned_experts_does(outputs, dtype, bias):
    sparse, dense = sparse_and_dense(outputs, bias=bias, dtype=dtype)
    x, routing_weights = torch.randn(B, N, D, dtype=dtype), torch.randn(B, T)
    found, expected = with_gradients(sparse, x, routing_weights), with_gradients(dense, x, routing_weights)
    assert found[0].shape == (B, N, outputs)
    assert torch.equal(found[0], expected[0])
    for one, same in zip(found[1:], expected[1:], strict=True):
        # sums over a line that was filled up, or over bf16 products, are taken in another order
        torch.testing.assert_close(one, same, atol=1e-5 * same.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.5, 0.9])
@pytest.mark.parametrize("t", range(T))
def test_a_one_hot_routing_weight_gives_base_plus_pruned_task_vector(t, ratio):
    base, *experts = linears(24)
    layer = SparseRoutedLinear.from_linears(base, experts, partial(prune, ratio=ratio))
    x = torch.randn(1, N, D)
    weight = base.weight + prune((experts[t].weight - base.weight).detach(), ratio)
    bias = base.bias + prune((experts[t].bias - base.bias).detach(), ratio)
    expected = nn.functional.linear(x, weight, bias)
    # fp32 sums of 70 terms of size 0.1, in another order
    torch.testing.assert_close(layer(x, torch.eye(T)[t : t + 1]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task_vector_dtype", [None, torch.bfloat16])
def test_exactly_the_published_number_of_entries_is_kept(task_vector_dtype):
    layer, _ = sparse_and_dense(96, task_vector_dtype=task_vector_dtype)
    n = 96 * D
    kept = n - 1 - 9 * (n - 1) // 10
    assert layer.values.numel() == T * kept + LINE
    assert layer.task_biases.count_nonzero() == T * (95 - 9 * 95 // 10)
    assert layer.size == n + 96 + T * kept + T * (95 - 9 * 95 // 10)
    assert layer.values.dtype == layer.task_biases.dtype == (task_vector_dtype or torch.float32)


@pytest.mark.parametrize(("tasks", "dtype", "share"), [(8, torch.float32, 0.22), (1, torch.float32, 0.22)])
def test_at_90_percent_task_vectors_take_a_fraction_of_dense_ones_in_memory_and_in_a_file(
    tmp_path, tasks, dtype, share
):
    base, *experts = [nn.Linear(256, 512, dtype=dtype) for _ in range(tasks + 1)]
    sparse = SparseRoutedLinear.from_linears(base, experts, partial(prune, ratio=0.9))
    dense = RoutedLinear.from_linears(base, experts)
    small, large = (sum(p.nbytes for p in layer.task_parameters()) for layer in (sparse, dense))
    assert small <= share * large
    assert small <= 0.15 * large  # a tenth, a bit for each, and one offset for 32 inputs
    plain = {"weight", "bias"}
    for name, layer in (("sparse", sparse), ("dense", dense)):
        state = {key: tensor.contiguous() for key, tensor in layer.state_dict().items() if key not in plain}
        save_file(state, tmp_path / name)
    sizes = [(tmp_path / name).stat().st_size for name in ("sparse", "dense")]
    assert sizes[0] <= share * sizes[1]


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_is_sparse_too_and_comes_back_to_the_bit(outputs, assign, tmp_path):
    layer, _ = sparse_and_dense(outputs)
    other, _ = sparse_and_dense(outputs, ratio=0.3)
    state = layer.state_dict()
    assert list(state) == ["weight", *SPARSE, "bias", "task_biases"]
    assert state["weight"].shape == (outputs, D)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "layer")
    x, routing_weights = torch.randn(B, N, D), torch.randn(B, T)
    expected = layer(x, routing_weights)
    other.load_state_dict(load_file(tmp_path / "layer"), assign=assign)
    assert torch.equal(other(x, routing_weights), expected)
    assert torch.equal(expand_task_vectors(other.task_vectors), expand_task_vectors(layer.task_vectors))
    assert other.is_packed
    assert not any(p.requires_grad for p in other.parameters())


def test_loading_what_was_just_saved_changes_nothing():
    layer, _ = sparse_and_dense()
    before = copy.deepcopy(layer.state_dict())
    layer.load_state_dict(layer.state_dict())
    layer.load_state_dict({"bias": layer.bias}, strict=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def spoilt(state, name):
    tensor = state[name].clone()
    if name == "values":
        return tensor[1:]
    if name == "masks":
        tensor[0, 0, 0] ^= 1
    else:
        tensor[-1, -1] += 1
    return tensor


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("values", r"`values` must hold a number for each bit of `masks`, \d+, and 16 more. Found"),
        ("masks", r"`values` must hold a number for each bit"),
        ("offsets", "`offsets` must tell where `values` holds the numbers"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused_and_change_nothing(name, message):
    layer, _ = sparse_and_dense()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=f"(?s)sparse task vectors of '' must be whole: {message}"):
        layer.load_state_dict(before | {name: spoilt(before, name)})
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())


def test_a_state_dict_of_another_shape_is_refused_by_its_plain_shape():
    layer, _ = sparse_and_dense()
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: .*\[48, 70\].* is torch.Size\(\[32, 70\]\)"):
        layer.load_state_dict(sparse_and_dense(48)[0].state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"masks\", \"values\", \"offsets\""):
        layer.load_state_dict(sparse_and_dense()[1].state_dict())


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_it_is_copied_pickled_unpacked_and_moved(outputs):
    layer, _ = sparse_and_dense(outputs)
    x, routing_weights = torch.randn(B, N, D), torch.randn(B, T)
    expected = layer(x, routing_weights)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, routing_weights), expected)
    other.unpack()
    assert other.weight.shape == (outputs, D)
    assert torch.equal(other(x, routing_weights), expected)  # accelerate moves weights in their plain shapes
    other.pack()
    assert torch.equal(other(x, routing_weights), expected)
    half = copy.deepcopy(layer).bfloat16()
    assert half.values.dtype == torch.bfloat16
    assert [half.get_parameter(name).dtype for name in ("masks", "offsets")] == [torch.uint8, torch.int64]
    assert half(x.bfloat16(), routing_weights).dtype == torch.bfloat16
    double = copy.deepcopy(layer).double()
    # fp32 sums of 70 terms of size 0.1
    torch.testing.assert_close(double(x.double(), routing_weights).float(), expected, atol=1e-5, rtol=1e-5)
    assert copy.deepcopy(layer).to("meta").state_dict()["weight"].shape == (outputs, D)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_it_compiles_without_a_graph_break(outputs):
    layer, _ = sparse_and_dense(outputs)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, routing_weights = torch.randn(B, N, D), torch.randn(B, T)
    for one, same in zip(
        with_gradients(compiled, x, routing_weights), with_gradients(layer, x, routing_weights), strict=True
    ):
        assert torch.equal(one, same)


def test_a_task_vector_out_of_range_is_refused():
    base, *experts = linears(32)
    experts[1].weight.data[3, 4] = 1e6
    with pytest.raises(ValueError, match="task vectors in float16 must be within"):
        SparseRoutedLinear.from_linears(base, experts, partial(prune, ratio=0.9), torch.float16)


@pytest.mark.parametrize("kind", [lambda: nn.Linear(1, 16), lambda: Conv1D(16, D), lambda: nn.Linear(D, 24)])
def test_it_shares_no_memory_with_what_it_was_made_of(kind):
    base, expert = kind(), kind()
    layer = SparseRoutedLinear.from_linears(base, [expert], partial(prune, ratio=0.5))
    before = copy.deepcopy(layer.state_dict())
    for parameter in (*base.parameters(), *expert.parameters()):
        parameter.data.fill_(7.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_layer_without_memory_is_filled_by_a_state_dict():
    layer, _ = sparse_and_dense(24)
    hollow = copy.deepcopy(layer).to("meta")
    hollow.load_state_dict({"bias": layer.bias}, strict=False, assign=True)
    hollow.load_state_dict(layer.state_dict(), assign=True)
    x, routing_weights = torch.randn(B, N, D), torch.randn(B, T)
    assert torch.equal(hollow(x, routing_weights), layer(x, routing_weights))


def test_an_expert_that_is_the_base_takes_nothing_but_masks():
    base = nn.Linear(D, 32)
    layer = SparseRoutedLinear.from_linears(base, [base], partial(prune, ratio=0.9))
    assert layer.values.tolist() == [0.0] * LINE
    x = torch.randn(1, N, D)
    torch.testing.assert_close(layer(x, torch.ones(1, 1)), base(x), atol=1e-5, rtol=1e-5)


def test_its_repr_tells_how_much_is_kept():
    text = "in_features=70, out_features=24, tasks=4, bias=True, kept=10.0 %, dtype=torch.float32, task_vectors="
    assert text in repr(sparse_and_dense(24)[0])
