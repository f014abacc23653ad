"""Which tokens may vote: the real ones, the prompt's, the first one."""

import pytest
import torch

from wemoe.token_masks import first_token, from_attention_mask, prompt_before_labels, prompt_tokens

REAL = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()  # padded right, padded left
N = REAL.shape[1]


def bidirectional(real):
    return real[:, None, None, :].expand(-1, 1, N, -1)


def causal(real):
    return bidirectional(real) & torch.ones(N, N).tril().bool()


def windowed(real):
    """Attention to a token and the one before it."""
    return causal(real) & torch.ones(N, N).triu(-1).bool()


def with_free_places(real):
    """What a cache of fixed size that has room for three more tokens makes of it."""
    return torch.nn.functional.pad(causal(real), (0, 3))


def additive(mask, dtype):
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@pytest.mark.parametrize("kind", [bidirectional, causal, windowed, with_free_places])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_a_token_that_some_query_sees_is_real(kind, dtype):
    mask = kind(REAL) if dtype == torch.bool else additive(kind(REAL), dtype)
    assert torch.equal(from_attention_mask(mask, N), REAL)


def test_a_flat_mask_is_the_token_mask():
    assert torch.equal(from_attention_mask(REAL.long(), N), REAL)


def test_no_mask_lets_all_vote():
    assert from_attention_mask(None, N) is None


def test_minus_infinity_is_masked_too():
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 1] = -torch.inf
    assert from_attention_mask(mask, 2).tolist() == [[True, False]]


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"attention_mask must be .* found shape \(2, 3, 4\)"):
        from_attention_mask(torch.ones(2, 3, 4), N)


def test_a_block_mask_is_refused():
    with pytest.raises(TypeError, match=r"attention_mask must be a tensor .* found object"):
        from_attention_mask(object(), N)


def test_the_first_real_token():
    assert first_token(REAL).long().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def test_a_prompts_real_tokens_vote():
    prompt = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    assert prompt_tokens(REAL, prompt).long().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]


def test_tokens_after_a_shorter_prompt_mask_belong_to_no_prompt():
    assert prompt_tokens(REAL, torch.ones(2, 2)).long().tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]


def test_one_mask_serves_all_samples():
    assert prompt_tokens(REAL, torch.ones(1, 2)).long().tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]


def test_of_an_empty_prompt_the_first_real_token_votes():
    assert torch.equal(prompt_tokens(REAL, torch.zeros(2, 4)), first_token(REAL))


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (4,)])
def test_a_prompt_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"prompt_mask must be \[B, P\] with B = 2 and P at most 4; found"):
        prompt_tokens(REAL, torch.ones(shape))


def test_the_prompt_ends_before_the_first_label():
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, -100, 6], [-100, -100, -100, -100], [4, 5, 6, 7]])
    assert prompt_before_labels(labels).long().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
