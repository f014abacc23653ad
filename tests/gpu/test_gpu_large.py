"""More than 2^31 elements, where the GPU's memory holds them: offsets need 64 bits."""

import pytest
import torch

from on_gpu import DEVICE
from wemoe_ext import merge_weights, routed_linear

BEYOND = 2**31
GB = 1e9


def need(gigabytes):
    """Skips, with both numbers, where less memory is free; the report lists what was skipped."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / GB
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:.0f} GB of free GPU memory. Found {free:.1f}.")


@pytest.fixture(autouse=True)
def _return_memory():
    """New memory is not filled here, which would take longer than all the rest."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.cuda.empty_cache()


def small_numbers(*shape):
    """Random integers from -2 to 2, made in bfloat16 at once: sums of a few products are exact."""
    return torch.empty(shape, dtype=torch.bfloat16, device=DEVICE).random_(0, 5).sub_(2)


def test_rows_of_more_than_two_billion_numbers(path):
    D = F = 16
    M = BEYOND // F + 1000
    need(32)  # x, y and their gradients take 17
    x, weight, task_vectors = small_numbers(1, M, D), small_numbers(F, D), small_numbers(2, F, D)
    routing_weights = torch.tensor([[1.0, -1.0]], device=DEVICE).bfloat16().requires_grad_()
    x.requires_grad_()
    y = routed_linear(x, weight, task_vectors, routing_weights)
    merged = weight + task_vectors[0] - task_vectors[1]  # at most 6
    for first in (0, M // 2, BEYOND // F - 50, M - 100):
        rows = slice(first, first + 100)
        expected = (x[0, rows].double() @ merged.double().T).bfloat16()
        assert torch.equal(y[0, rows], expected)
    grad = torch.zeros_like(y)
    grad[0, -1] = 1  # all of the gradients come from the last row
    grad_x, grad_routing_weights = torch.autograd.grad(y, (x, routing_weights), grad)
    assert torch.equal(grad_x[0, -1], merged.double().sum(0).bfloat16())
    assert not grad_x[0, -1000:-1].any()
    expected = torch.einsum("d,tfd->t", x[0, -1].double(), task_vectors.double())
    assert torch.equal(grad_routing_weights[0], expected.bfloat16())


def test_task_vectors_of_more_than_two_billion_numbers(path):
    D, F, T = 8192, 16384, 17
    assert T * F * D > BEYOND
    need(24)  # 4.6 GB of task vectors, and copies of slices
    x, weight = small_numbers(2, 3, D), small_numbers(F, D)
    task_vectors = torch.zeros(T, F, D, dtype=torch.bfloat16, device=DEVICE)
    task_vectors[-1, -64:] = small_numbers(64, D)
    routing_weights = torch.zeros(2, T, device=DEVICE)
    routing_weights[:, -1] = 1
    x.requires_grad_()
    routing_weights.requires_grad_()
    y = routed_linear(x, weight, task_vectors, routing_weights)
    last = weight[-64:] + task_vectors[-1, -64:]
    expected = x.double() @ last.double().T
    # integers up to 4 * 2 * 8192, which float32 adds exactly and bfloat16 rounds once
    assert torch.equal(y[..., -64:], expected.bfloat16())
    grad = torch.zeros_like(y)
    grad[..., -1] = 1
    grad_x, grad_routing_weights = torch.autograd.grad(y, (x, routing_weights), grad)
    assert torch.equal(grad_x, last[-1].expand_as(grad_x))
    expected = torch.zeros(2, T, dtype=torch.float64, device=DEVICE)
    expected[:, -1] = (x.double() * task_vectors[-1, -1].double()).sum((1, 2))
    assert torch.equal(grad_routing_weights.double(), expected)


@pytest.mark.parametrize(("R", "P"), [(1, BEYOND + 24), (3, BEYOND // 2 + 3)])
def test_merge_weights_of_more_than_two_billion_numbers(R, P):
    need(30)  # base, one task vector, the merged ones and their gradient
    base, task_vectors = small_numbers(P), small_numbers(1, P)
    routing_weights = torch.arange(1.0, R + 1, device=DEVICE).bfloat16().view(R, 1).requires_grad_()
    merged = merge_weights(base, task_vectors, routing_weights)
    for some in (slice(0, 100), slice(P - 100, P)):
        for r in range(R):
            assert torch.equal(merged[r, some], base[some] + (r + 1) * task_vectors[0, some])
    grad = torch.zeros_like(merged)
    grad[:, -9:] = 1
    (found,) = torch.autograd.grad(merged, routing_weights, grad)
    assert torch.equal(found, task_vectors[0, -9:].sum().expand(R, 1))
