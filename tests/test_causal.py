"""Models that write: routed by the prompt, in one forward, in training and token by token from a cache."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F
from transformers import BertModel, DynamicCache, StaticCache

import wemoe
from models import experts_of
from test_families import make
from tiny_families import FAMILIES, VOCABULARY, WRITERS, B

writers = pytest.mark.parametrize("name", WRITERS)
P, NEW = 5, 4
UNTIL_FULL = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
# fp32 through two blocks of width 16, with attention over other shapes
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def prompts():
    """Prompts of 3, 4 and 5 tokens, padded left as generation wants it."""
    real = torch.arange(P) >= torch.tensor([[2], [1], [0]])
    return {"input_ids": torch.randint(3, VOCABULARY, (B, P)) * real, "attention_mask": real.long()}


def continued(texts, inputs):
    """Inputs of the whole texts [B, P + NEW], with their prompts masked."""
    return {
        "input_ids": texts,
        "attention_mask": F.pad(inputs["attention_mask"], (0, NEW), value=1),
        "position_ids": (F.pad(inputs["attention_mask"], (0, NEW), value=1).cumsum(1) - 1).clamp(min=0),
        "prompt_mask": torch.ones(B, P),
    }


@writers
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_decoding_from_a_cache_equals_one_forward_of_the_whole_text(name, cache):
    _, _, model, _ = make(name)
    inputs = prompts()
    found = model.generate(
        **inputs, **UNTIL_FULL, cache_implementation=cache, return_dict_in_generate=True, output_logits=True
    )
    expected = model(**continued(found.sequences, inputs)).logits[:, P - 1 : -1]
    torch.testing.assert_close(torch.stack(found.logits, dim=1), expected, **CLOSE)


@writers
def test_what_follows_the_prompt_never_changes_what_stands_before_it(name):
    _, _, model, _ = make(name)
    text = torch.randint(3, VOCABULARY, (B, P + NEW))
    other = text.clone()
    other[:, P + 1 :] = torch.randint(3, VOCABULARY, (B, NEW - 1))
    mask = torch.ones(B, P)
    first, second = (model(input_ids=ids, prompt_mask=mask).logits for ids in (text, other))
    torch.testing.assert_close(first[:, : P + 1], second[:, : P + 1], **CLOSE)
    assert not torch.allclose(first[:, P + 1 :], second[:, P + 1 :], atol=1e-3)
    leaking = model(input_ids=other).logits[:, :P]
    assert not torch.allclose(model(input_ids=text).logits[:, :P], leaking, atol=1e-3)  # all tokens are a prompt here


@writers
@pytest.mark.parametrize("how", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_carry_their_own_routing_weights(name, how):
    _, _, model, _ = make(name)
    inputs = prompts()
    found = model.generate(**inputs, **UNTIL_FULL, **how)
    assert torch.equal(found, model.generate(**inputs, **UNTIL_FULL, **how, use_cache=False))


def test_drafts_of_assisted_decoding_are_no_part_of_the_prompt():
    base, _, model, _ = make("gpt2")
    text = torch.randint(3, VOCABULARY, (1, P))
    assert torch.equal(
        model.generate(text, **UNTIL_FULL, assistant_model=base, do_sample=False),
        model.generate(text, **UNTIL_FULL, do_sample=False),
    )


@writers
def test_labels_tell_the_prompt(name):
    _, _, model, _ = make(name)
    text = torch.randint(3, VOCABULARY, (B, P + NEW))
    labels = text.clone()
    labels[:, :P] = -100
    found = model(input_ids=text, labels=labels)
    torch.testing.assert_close(found.logits, model(input_ids=text, prompt_mask=torch.ones(B, P)).logits)
    everything = model(input_ids=text, labels=text)
    first = torch.zeros(B, P + NEW)
    first[:, 0] = 1
    torch.testing.assert_close(everything.logits, model(input_ids=text, prompt_mask=first).logits)
    assert everything.loss.isfinite()


@writers
def test_training_under_checkpointing_sees_the_prompt_too(name):
    _, _, model, _ = make(name)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = model.config.attn_pdrop = 0.0
    text = torch.randint(3, VOCABULARY, (B, P + NEW))
    labels = text.clone()
    labels[:, :P] = -100

    def gradients():
        model.zero_grad()
        model(input_ids=text, labels=labels, use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    model.activation_checkpointing_enable({"use_reentrant": False})
    for n, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[n], msg=lambda text, n=n: f"{n}: {text}")


def encoded():
    real = torch.arange(7) < torch.tensor([[5], [6], [7]])
    return {"input_ids": torch.randint(3, VOCABULARY, (B, 7)) * real, "attention_mask": real.long()}


@pytest.mark.parametrize("name", ["t5", "flan-t5"])
@pytest.mark.parametrize("how", [{}, {"cache_implementation": "static"}, {"num_beams": 3}])
def test_a_decoder_that_reads_an_encoder_is_routed_by_its_first_token(name, how):
    _, _, model, _ = make(name)
    inputs = encoded()
    options = UNTIL_FULL | {"decoder_start_token_id": 0}
    found = model.generate(**inputs, **options, **how, return_dict_in_generate=True, output_logits=True)
    without = {key: value for key, value in how.items() if key != "cache_implementation"}
    assert torch.equal(found.sequences, model.generate(**inputs, **options, **without, use_cache=False))
    if not how.get("num_beams"):
        whole = model(**inputs, decoder_input_ids=found.sequences).logits[:, :-1]
        torch.testing.assert_close(torch.stack(found.logits, dim=1), whole, **CLOSE)


@pytest.mark.parametrize("name", ["t5", "flan-t5"])
def test_a_decoders_later_tokens_never_change_earlier_ones(name):
    _, _, model, _ = make(name)
    inputs = encoded()
    answer = torch.randint(3, VOCABULARY, (B, 6))
    other = answer.clone()
    other[:, 3:] = torch.randint(3, VOCABULARY, (B, 3))
    first, second = (model(**inputs, labels=labels).logits for labels in (answer, other))
    torch.testing.assert_close(first[:, :4], second[:, :4], **CLOSE)


# --- the cache -----------------------------------------------------------------------------------------------------


def prefilled(model, cache=None):
    text = torch.randint(3, VOCABULARY, (B, P))
    with torch.no_grad():
        return text, model(input_ids=text, past_key_values=cache, use_cache=True).past_key_values


def decode(model, cache, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, past_key_values=cache).logits


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_of_a_cache_decodes_alike(twin):
    _, _, model, _ = make("llama")
    _, cache = prefilled(model)
    assert isinstance(cache, DynamicCache)
    again = twin(cache)
    tokens = torch.randint(3, VOCABULARY, (B, 1))
    assert torch.equal(decode(model, cache, tokens), decode(model, again, tokens))
    assert torch.equal(decode(model, cache, tokens), decode(model, again, tokens))


def test_samples_of_a_cache_are_chosen_repeated_and_reordered_with_their_routing_weights():
    _, _, model, _ = make("llama")
    _, cache = prefilled(model)
    tokens = torch.randint(3, VOCABULARY, (B, 1))
    expected = decode(model, copy.deepcopy(cache), tokens)
    order = torch.tensor([2, 0, 1])
    for change, chosen in (
        (lambda c: c.reorder_cache(order), order),
        (lambda c: c.batch_select_indices(torch.tensor([1])), torch.tensor([1])),
        (lambda c: c.batch_repeat_interleave(2), torch.arange(B).repeat_interleave(2)),
    ):
        changed = copy.deepcopy(cache)
        change(changed)
        torch.testing.assert_close(decode(model, changed, tokens[chosen]), expected[chosen], **CLOSE)


def test_constant_routing_serves_every_beam():
    _, _, model, _ = make("llama", router_hidden_layers=0)
    inputs = prompts()
    assert torch.equal(
        model.generate(**inputs, **UNTIL_FULL, num_beams=3),
        model.generate(**inputs, **UNTIL_FULL, num_beams=3, use_cache=False),
    )


def test_a_cache_that_is_reset_takes_a_new_prompt():
    _, _, model, _ = make("llama")
    cache = StaticCache(config=model.config, max_cache_len=P)
    prefilled(model, cache)
    cache.reset()
    text, cache = prefilled(model, cache)
    kept = cache.routing_weights
    with wemoe.record_routing(model) as routing:
        model(input_ids=text)
    for weights, (expected,) in zip(kept.values(), routing.values(), strict=True):
        torch.testing.assert_close(weights, expected)


def test_a_cache_that_another_model_filled_is_refused():
    base, _, model, _ = make("llama")
    _, cache = prefilled(base)
    with pytest.raises(ValueError, match=r"must be empty or come from a routed model, .*found 5 tokens and no routing"):
        decode(model, cache, torch.ones(B, 1).long())


def test_the_signature_is_the_bases_and_one_argument_more():
    import inspect

    base, _, model, _ = make("gpt2")
    mine, theirs = (inspect.signature(m.forward).parameters for m in (model, base))
    assert [n for n in mine if n != "prompt_mask"] == list(theirs)
    assert mine["prompt_mask"].default is None


def test_a_compiled_prefill_hands_its_routing_weights_on():
    _, _, model, _ = make("llama")
    text, cache = prefilled(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        mine = compiled(input_ids=text, use_cache=True).past_key_values
    tokens = torch.randint(3, VOCABULARY, (B, 1))
    torch.testing.assert_close(decode(model, mine, tokens), decode(model, cache, tokens), **CLOSE)


def test_a_backbone_takes_a_prompt_mask_as_well():
    base = FAMILIES["gpt2"].make().transformer
    model = wemoe.upcycle(base, experts_of(base))
    text = torch.randint(3, VOCABULARY, (B, P))
    assert model(input_ids=text, prompt_mask=torch.ones(B, 2)).last_hidden_state.shape == (B, P, 16)
    assert not isinstance(model, BertModel)
