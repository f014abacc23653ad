"""The scope of a block: what holds inside it, and that nothing stays behind."""

import threading

import pytest
import torch

from wemoe.routing_scope import RoutingScope, current_scope

X = torch.randn(2, 3, 4)


def router(hidden_states, token_mask):
    return hidden_states.mean(dim=(1, 2), keepdim=False).unsqueeze(1)


def test_scopes_nest_and_end_with_an_error_too():
    outer, inner = RoutingScope(), RoutingScope()
    before = current_scope()
    with outer:
        with inner:
            assert current_scope() is inner
        with pytest.raises(KeyError), inner:
            raise KeyError
        assert current_scope() is outer
    assert current_scope() is before
    assert before.token_mask is None


def test_a_scope_belongs_to_its_thread():
    seen = []
    with RoutingScope(torch.ones(1, 1).bool()):
        thread = threading.Thread(target=lambda: seen.append(current_scope().token_mask))
        thread.start()
        thread.join()
    assert seen == [None]


def test_routing_weights_are_kept_by_block_and_used_again():
    kept = {}
    first = RoutingScope(None, kept, "a").route(router, X)
    assert RoutingScope(None, kept, "a").route(router, 2 * X) is first
    assert torch.equal(RoutingScope(None, kept, "b").route(router, 2 * X), 2 * first)
    assert kept.keys() == {"a", "b"}


def test_nothing_is_kept_without_a_place_for_it():
    assert torch.equal(RoutingScope().route(router, 2 * X), 2 * RoutingScope().route(router, X))
