"""RegMean: exact for linear regression, over every kind of linear map, without padding, leaving no hook behind."""

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

import wemoe
from models import experts_of, fine_tuned
from points import TiedModel
from tiny_families import FAMILIES, T5, images, padded_texts, questions
from wemoe.merging.grams import collecting_grams, linear_weights

TASKS = ("a", "b")


def predict(model, batch, task):
    return model(**batch) if isinstance(batch, dict) else model(batch)


def least_squares(x, y):
    return torch.linalg.lstsq(x, y).solution


class Linear(nn.Module):
    """One map without bias, of either kind, from a matrix [D, F]."""

    def __init__(self, matrix, transposed):
        super().__init__()
        inputs, outputs = matrix.shape
        self.map = Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs, bias=False)
        with torch.no_grad():
            self.map.weight.copy_(matrix if transposed else matrix.T)
            if transposed:
                self.map.bias.zero_()
        self.double()

    def forward(self, x):
        return self.map(x)

    def matrix(self):
        return self.map.weight.detach() if isinstance(self.map, Conv1D) else self.map.weight.detach().T


@pytest.mark.parametrize("transposed", [False, True], ids=["Linear", "Conv1D"])
def test_merged_regressions_are_the_regression_on_all_data(transposed):
    x = {task: torch.randn(40, 5, dtype=torch.float64) * (1 + t) for t, task in enumerate(TASKS)}
    y = {task: torch.randn(40, 3, dtype=torch.float64) for task in TASKS}
    experts = {task: Linear(least_squares(x[task], y[task]), transposed) for task in TASKS}
    base = Linear(torch.zeros(5, 3), transposed)
    merged = wemoe.regmean(base, experts, {task: x[task].split(16) for task in TASKS}, predict, alpha=1.0)
    expected = least_squares(torch.cat(list(x.values())), torch.cat(list(y.values())))
    torch.testing.assert_close(merged.matrix(), expected, atol=1e-8, rtol=0)  # but for the ridge of 1e-9


def test_alpha_0_weights_every_input_by_its_power_by_hand():
    # task a sees the first input only, task b the second twice as large as the first
    data = {
        "a": [torch.tensor([[1.0, 0.0]], dtype=torch.float64)],
        "b": [torch.tensor([[1.0, 2.0]], dtype=torch.float64)],
    }
    experts = {"a": Linear(torch.tensor([[1.0], [7.0]]), False), "b": Linear(torch.tensor([[3.0], [5.0]]), False)}
    merged = wemoe.regmean(Linear(torch.zeros(2, 1), False), experts, data, predict, alpha=0.0)
    torch.testing.assert_close(merged.matrix().flatten().tolist(), [2.0, 5.0], atol=1e-8, rtol=0)


def test_two_experts_by_hand():
    # G~_a = (1, 1/2; 1/2, 1), G~_b = (4, 0; 0, 0); their sum is (5, 1/2; 1/2, 1), of determinant 19/4
    data = {"a": [torch.tensor([[1.0, 1.0]]).double()], "b": [torch.tensor([[2.0, 0.0]]).double()]}
    experts = {"a": Linear(torch.tensor([[1.0], [3.0]]), False), "b": Linear(torch.tensor([[2.0], [10.0]]), False)}
    merged = wemoe.regmean(Linear(torch.zeros(2, 1), False), experts, data, predict, alpha=0.5)
    # sum_t G~_t w_t = (1 + 3/2, 1/2 + 3) + (8, 0) = (21/2, 7/2), times (1, -1/2; -1/2, 5) * 4/19
    expected = torch.tensor([35 / 19, 49 / 19], dtype=torch.float64)
    torch.testing.assert_close(merged.matrix().flatten(), expected, atol=1e-7, rtol=0)  # but for the ridge of 3e-9


def test_alpha_scales_what_is_off_the_diagonal():
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    w = {
        "a": torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        "b": torch.tensor([[-2.0], [4.0]], dtype=torch.float64),
    }
    data = {"a": [x], "b": [x[:1]]}
    grams = {"a": x.T @ x / 2, "b": x[:1].T @ x[:1]}
    scale = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    left = sum(scale * gram for gram in grams.values())
    right = sum(scale * grams[task] @ w[task] for task in TASKS)
    experts = {task: Linear(w[task], False) for task in TASKS}
    merged = wemoe.regmean(Linear(torch.zeros(2, 1), False), experts, data, predict, alpha=0.6)
    torch.testing.assert_close(merged.matrix(), torch.linalg.inv(left) @ right, atol=1e-7, rtol=0)


def test_equal_inputs_and_unseen_directions_give_the_average():
    base = Linear(torch.zeros(4, 2), False)
    experts = {task: Linear(torch.randn(4, 2), False) for task in TASKS}
    seen = torch.randn(3, 4, dtype=torch.float64)
    average = wemoe.average(base, experts).matrix()
    for x in ([seen], [torch.zeros_like(seen)]):  # three rows leave one direction out of four unseen, zeros leave all
        merged = wemoe.regmean(base, experts, dict.fromkeys(TASKS, x), predict, alpha=1.0)
        torch.testing.assert_close(merged.matrix(), average, atol=1e-6, rtol=0)


def test_only_the_counted_examples_are_read():
    base = Linear(torch.zeros(2, 1), False)
    experts = {task: Linear(torch.randn(2, 1), False) for task in TASKS}
    few = {task: [torch.randn(3, 2, dtype=torch.float64)] for task in TASKS}
    more = {task: [batches[0], torch.randn(3, 2, dtype=torch.float64)] for task, batches in few.items()}
    first, second = (wemoe.regmean(base, experts, data, predict, examples=3) for data in (few, more))
    assert torch.equal(first.matrix(), second.matrix())
    assert not torch.equal(first.matrix(), wemoe.regmean(base, experts, more, predict, examples=4).matrix())


def test_tied_weights_biases_and_what_is_not_reached_are_averaged():
    class WithUnused(TiedModel):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(6, 6)

    base = WithUnused()
    experts = {task: fine_tuned(base, seed=t) for t, task in enumerate(TASKS)}
    merged = wemoe.regmean(base, experts, {task: [torch.randint(11, (4, 3))] for task in TASKS}, predict).state_dict()
    average = wemoe.average(base, experts).state_dict()
    differing = {name for name in merged if not torch.allclose(merged[name], average[name])}
    assert differing == {"inner.weight"}


def test_a_map_that_one_experts_data_do_not_reach_is_averaged():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def read(model, batch, task):
        return model.second(model.first(batch)) if task == "a" else model.first(batch)

    base = Two()
    experts = {task: fine_tuned(base, seed=t) for t, task in enumerate(TASKS)}
    merged = wemoe.regmean(base, experts, {task: [torch.randn(9, 3)] for task in TASKS}, read)
    average = wemoe.average(base, experts)
    assert torch.equal(merged.second.weight, average.second.weight)
    assert not torch.allclose(merged.first.weight, average.first.weight)


def grams_of(model, *batches):
    with torch.no_grad(), collecting_grams(model, linear_weights(model)) as grams:
        for batch in batches:
            predict(model, batch, "")
    return grams


def alone(inputs, sample):
    """One sample of padded texts without its padding."""
    length = int(inputs["attention_mask"][sample].sum())
    cut = {"input_ids", "attention_mask"}
    return {
        name: x[sample : sample + 1, :length] if name in cut else x[sample : sample + 1] for name, x in inputs.items()
    }


PADDED_RIGHT = ("bert", "roberta", "clip text", "clip", "gpt2", "llama", "t5", "flan-t5")
PADDED_LEFT = ("gpt2", "llama")


@pytest.mark.parametrize(
    ("name", "left"), [(name, False) for name in PADDED_RIGHT] + [(name, True) for name in PADDED_LEFT]
)
def test_padded_tokens_do_not_count(name, left):
    model = FAMILIES[name].make().double()
    inputs = FAMILIES[name].inputs()
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    padded = inputs
    if left:
        padded = {key: torch.stack([row.roll(2 - i) for i, row in enumerate(x)]) for key, x in inputs.items()}
        positions = (padded["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        padded = padded | {"position_ids": positions}
    whole, single = grams_of(model, padded), grams_of(model, *(alone(inputs, i) for i in range(3)))
    seen = {key for key, gram in single.items() if gram.rows}
    assert seen
    for key in seen:
        assert whole[key].rows == single[key].rows, key
        torch.testing.assert_close(whole[key].matrix, single[key].matrix, msg=key)


def test_a_decoder_as_long_as_its_encoder_keeps_its_own_mask():
    config = T5Config(**T5)
    config.tie_word_embeddings = False  # a tied map is averaged
    model = T5ForConditionalGeneration(config).eval()
    inputs = questions()
    inputs["decoder_input_ids"] = torch.zeros_like(inputs["input_ids"])
    real, all_tokens = int(inputs["attention_mask"].sum()), inputs["input_ids"].numel()
    rows = {name: gram.rows for name, gram in grams_of(model, inputs).items()}
    assert rows["encoder.block.0.layer.0.SelfAttention.q.weight"] == real
    assert rows["decoder.block.0.layer.0.SelfAttention.q.weight"] == all_tokens
    assert rows["decoder.block.0.layer.1.EncDecAttention.q.weight"] == all_tokens
    assert rows["decoder.block.0.layer.1.EncDecAttention.k.weight"] == real
    assert rows["lm_head.weight"] == all_tokens
    own = torch.ones_like(inputs["input_ids"])
    own[:, 3:] = 0
    rows = {name: gram.rows for name, gram in grams_of(model, inputs | {"decoder_attention_mask": own}).items()}
    assert rows["lm_head.weight"] == rows["decoder.block.0.layer.0.SelfAttention.q.weight"] == 3 * 3
    assert rows["encoder.block.0.layer.0.SelfAttention.q.weight"] == real


def test_images_have_no_padding_even_beside_texts_of_as_many_tokens():
    model = FAMILIES["clip"].make()
    texts = {name: x[:, :5] for name, x in padded_texts().items()}
    texts["attention_mask"][:, 4] = 0
    rows = {name: gram.rows for name, gram in grams_of(model, texts | images()).items()}
    assert rows["vision_model.encoder.layers.0.self_attn.q_proj.weight"] == 3 * 5  # four patches and the class
    assert rows["text_model.encoder.layers.0.self_attn.q_proj.weight"] == 3 * 4


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention_gives_the_inputs_of_its_maps(batch_first):
    attention = nn.MultiheadAttention(6, 2, batch_first=batch_first).eval()
    x = torch.randn(2, 4, 6)
    weights = linear_weights(attention)
    assert weights.keys() == {"in_proj_weight", "out_proj.weight"}
    with torch.no_grad(), collecting_grams(attention, weights) as grams:
        y, _ = attention(x, x, x)
    torch.testing.assert_close(grams["in_proj_weight"].matrix, (x.flatten(0, 1).T @ x.flatten(0, 1)).double())
    inner = torch.linalg.solve(attention.out_proj.weight, (y - attention.out_proj.bias).flatten(0, 1).T).T.detach()
    torch.testing.assert_close(grams["out_proj.weight"].matrix, (inner.T @ inner).double(), atol=1e-4, rtol=1e-4)
    assert grams["out_proj.weight"].rows == 8


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_merges(name):
    tiny = FAMILIES[name]
    base = tiny.make()
    experts = experts_of(base, tasks=2)
    batches = {task: [tiny.inputs()] for task in experts}
    merged = wemoe.regmean(base, experts, batches, predict, examples=3).state_dict()
    average = wemoe.average(base, experts).state_dict()
    differing = {key for key in merged if not torch.equal(merged[key], average[key])}
    assert len(differing) >= 2 * 4  # attention and MLP of two blocks
    assert differing <= linear_weights(base).keys()
    assert all(tensor.isfinite().all() for tensor in merged.values() if tensor.is_floating_point())


def test_hooks_are_removed_when_the_model_fails():
    base = TiedModel()
    experts = {"a": fine_tuned(base, 1)}

    def failing(model, batch, task):
        model(batch)
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        wemoe.regmean(base, experts, {"a": [torch.randint(11, (2, 3))]}, failing)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in experts["a"].modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\]; found 1.1"),
        ({"alpha": torch.nan}, r"alpha must be in \[0, 1\]; found nan"),
        ({"examples": 0}, "examples must be at least 1; found 0"),
        ({"batches": {}}, r"batches must hold batches for every expert; missing: \['a'\]"),
        ({"batches": {"a": []}}, r"batches\['a'\] must hold at least one sample; found none"),
        (
            {"batches": {"a": [torch.full((1, 2), torch.inf, dtype=torch.float64)]}},
            "inputs of 'map.weight' must be finite; found NaN or infinity in task 'a'",
        ),
    ],
)
def test_bad_options_and_data_are_refused(options, message):
    arguments = {"batches": {"a": [torch.ones(1, 2, dtype=torch.float64)]}, "predict": predict} | options
    with pytest.raises(ValueError, match=message):
        wemoe.regmean(Linear(torch.zeros(2, 1), False), {"a": Linear(torch.ones(2, 1), False)}, **arguments)
