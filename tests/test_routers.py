"""Routers: published shapes, initial values, and the mean over the tokens that may vote."""

import pytest
import torch
from torch import nn

from wemoe.routers import build_router, masked_mean

B, N, D, T = 3, 5, 16, 4


@pytest.mark.parametrize(
    ("depth", "shapes"),
    [
        (0, [("weight", (T,))]),
        (1, [("fc.weight", (T, D)), ("fc.bias", (T,))]),
        (2, [("fc1.weight", (D, D)), ("fc1.bias", (D,)), ("fc2.weight", (T, D)), ("fc2.bias", (T,))]),
    ],
)
def test_parameters_have_the_published_shapes_in_the_published_order(depth, shapes):
    router = build_router(D, T, 0.3, depth)
    assert [(name, tuple(p.shape)) for name, p in router.named_parameters()] == shapes
    assert all(p.requires_grad for p in router.parameters())


def test_depth_0_starts_at_the_initial_value_whatever_the_input():
    routing_weights = build_router(D, T, 0.3, 0)(torch.randn(B, N, D))
    assert torch.equal(routing_weights, torch.full((1, T), 0.3))


def test_depth_1_and_2_start_near_the_initial_value():
    for depth in (1, 2):
        router = build_router(512, T, 0.3, depth)
        weights = [p for name, p in router.named_parameters() if name.endswith("weight")]
        biases = [p for name, p in router.named_parameters() if name.endswith("bias")]
        # the standard deviation of n normal numbers is known to 1 / sqrt(2 n); 5 of those, n >= 2048
        assert all(abs(w.std().item() - 0.01) < 5 * 0.01 / (2 * 2048) ** 0.5 for w in weights)
        assert torch.equal(biases[-1], torch.full((T,), 0.3))
        assert all(torch.equal(b, torch.zeros_like(b)) for b in biases[:-1])


def test_depth_2_is_the_mean_over_tokens_of_the_published_formula():
    router = build_router(D, T, 0.3, 2).double()
    nn.init.normal_(router.fc1.weight)
    nn.init.normal_(router.fc2.weight)
    hidden = torch.randn(B, N, D).double()
    per_token = torch.relu(hidden @ router.fc1.weight.T + router.fc1.bias) @ router.fc2.weight.T + router.fc2.bias
    torch.testing.assert_close(router(hidden), per_token.mean(dim=1))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_masked_token_has_no_vote(depth):
    router = build_router(D, T, 0.3, depth)
    hidden = torch.randn(B, N, D)
    mask = torch.arange(N) < torch.tensor([[5], [2], [1]])
    disturbed = hidden.masked_fill(~mask.unsqueeze(-1), 1e3)
    assert torch.equal(router(hidden, mask), router(disturbed, mask))
    # another order of summation: two tokens alone, or beside three of weight 0
    torch.testing.assert_close(router(hidden, mask)[1:2], router(hidden[1:2, :2]), atol=1e-6, rtol=0)


def test_a_mask_that_is_all_true_changes_nothing():
    values = torch.randn(B, N, D)
    # two ways to sum 5 terms of size 1 in fp32
    torch.testing.assert_close(
        masked_mean(values, torch.ones(B, N).bool()), masked_mean(values, None), atol=1e-6, rtol=0
    )


def test_a_sample_without_tokens_has_a_mean_of_zero():
    assert torch.equal(masked_mean(torch.randn(1, N, D), torch.zeros(1, N).bool()), torch.zeros(1, D))


def test_routers_keep_their_precision_beside_half_precision_hidden_states():
    router = build_router(D, T, 0.3, 2)
    assert router(torch.randn(B, N, D).bfloat16()).dtype == torch.float32


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"token_mask must be \[B, N\] = \(3, 5\) .* found \(3, 4\)"):
        masked_mean(torch.randn(B, N, D), torch.ones(B, 4).bool())


def test_unknown_depths_and_no_task_are_refused():
    with pytest.raises(ValueError, match=r"router_hidden_layers must be one of \(0, 1, 2\); found 3"):
        build_router(D, T, 0.3, 3)
    with pytest.raises(ValueError, match="at least one task; found num_tasks = 0"):
        build_router(D, 0, 0.3, 2)
