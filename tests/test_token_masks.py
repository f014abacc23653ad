"""Which tokens may vote, read off a block's attention mask."""

import pytest
import torch

from wemoe.token_masks import TokenMask, current_token_mask, from_attention_mask

REAL = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()  # padded right, padded left


def bidirectional(real):
    return real[:, None, None, :].expand(-1, 1, real.shape[1], -1)


def causal(real):
    tokens = real.shape[1]
    return bidirectional(real) & torch.ones(tokens, tokens).tril().bool()


def additive(mask, dtype):
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@pytest.mark.parametrize("kind", [bidirectional, causal])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_the_last_query_tells_the_real_tokens(kind, dtype):
    mask = kind(REAL) if dtype == torch.bool else additive(kind(REAL), dtype)
    assert torch.equal(from_attention_mask(mask), REAL)


def test_a_causal_mask_whose_padded_queries_see_everything_is_read_right():
    mask = causal(REAL)
    mask = mask | ~mask.any(dim=-1, keepdim=True)  # as efficient attention wants it
    assert torch.equal(from_attention_mask(mask), REAL)


def test_a_flat_mask_is_the_token_mask():
    assert torch.equal(from_attention_mask(REAL.long()), REAL)


def test_no_mask_lets_all_vote():
    assert from_attention_mask(None) is None


def test_minus_infinity_is_masked_too():
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 1] = -torch.inf
    assert from_attention_mask(mask).tolist() == [[True, False]]


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"attention_mask must be .* found shape \(2, 3, 4\)"):
        from_attention_mask(torch.ones(2, 3, 4))


def test_a_block_mask_is_refused():
    with pytest.raises(TypeError, match=r"attention_mask must be a tensor .* found object"):
        from_attention_mask(object())


def test_the_scope_ends_with_the_block_and_nests():
    outer, inner = torch.ones(1, 2).bool(), torch.zeros(1, 2).bool()

    def fail_inside():
        with TokenMask(inner):
            assert current_token_mask() is inner
            raise RuntimeError("inside")

    with TokenMask(outer):
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert current_token_mask() is outer
    assert current_token_mask() is None
