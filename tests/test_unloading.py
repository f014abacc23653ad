"""`wemoe.merge_and_unload`: constant routing weights folded into a plain model of the base's class."""

import pytest
import torch
from torch import nn
from transformers import BertModel
from transformers.pytorch_utils import Conv1D

import wemoe
from models import experts_of, fine_tuned, inputs_of, randomised, tiny_bert
from tiny_families import FAMILIES, output
from wemoe.layers import RoutedMLP
from wemoe.routed_classes import RoutedModule

LIBRARY = [name for name in FAMILIES if not name.startswith("openclip")]
RATES = (0.3, -0.2, 0.9)


def routed(base, depth=0, **options):
    """A routed model whose constants differ between tasks and MLPs."""
    model = wemoe.upcycle(base, experts_of(base), router_hidden_layers=depth, progress=False, **options)
    return randomised(model)


@pytest.mark.parametrize("family", LIBRARY)
def test_a_model_of_depth_0_becomes_a_plain_one_that_computes_the_same(family, tmp_path):
    tiny = FAMILIES[family]
    base, inputs = tiny.make(), tiny.inputs()
    model = routed(base)
    plain = wemoe.merge_and_unload(model)

    assert type(plain) is type(base)
    assert not isinstance(plain, RoutedModule)
    with torch.inference_mode():
        expected = output(model, inputs)
        # the same weights, in products that add in another order: a few units in the last place of fp32
        torch.testing.assert_close(output(plain, inputs), expected, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(output(base, inputs), expected, atol=1e-2)

    plain.save_pretrained(tmp_path)
    again, info = type(base).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state, reloaded = plain.state_dict(), again.state_dict()
    assert state.keys() == reloaded.keys() == base.state_dict().keys()
    assert all(torch.equal(state[name], reloaded[name]) for name in state)


def test_every_weight_is_the_base_plus_the_weighted_task_vectors():
    base = tiny_bert()
    experts = experts_of(base)
    model = wemoe.upcycle(base, experts, router_hidden_layers=0, progress=False)
    plain = wemoe.merge_and_unload(model, routing_weights=RATES)
    for name, theta in base.state_dict().items():
        in_mlp = "intermediate" in name or ("output.dense" in name and "attention" not in name)
        rates = RATES if in_mlp else [0.3] * 3
        expected = theta + sum(r * (e.state_dict()[name] - theta) for r, e in zip(rates, experts.values(), strict=True))
        torch.testing.assert_close(plain.state_dict()[name], expected, atol=1e-6, rtol=0)  # a sum of four terms in fp32


def test_conv1d_is_stored_transposed_again():
    base = FAMILIES["gpt2"].make()
    plain = wemoe.merge_and_unload(routed(base))
    for path, module in base.named_modules():
        if isinstance(module, Conv1D):
            assert plain.get_submodule(path).weight.shape == module.weight.shape
            assert plain.get_submodule(path).weight.is_contiguous()


@pytest.mark.parametrize("depth", [1, 2])
def test_routing_that_reads_its_input_is_refused_by_its_depth(depth):
    with pytest.raises(ValueError, match=rf"depth 0, .* found depth {depth}, which reads its input"):
        wemoe.merge_and_unload(routed(tiny_bert(), depth))


def test_recorded_routing_may_stand_in_for_a_deeper_router():
    model = routed(tiny_bert(), depth=2)
    inputs = inputs_of(model, batch=1)  # of one sample, the mean is the routing itself
    with torch.inference_mode(), wemoe.record_routing(model) as routing:
        expected = model(**inputs).last_hidden_state
    means = {path: calls[0].mean(dim=0) for path, calls in routing.items()}
    plain = wemoe.merge_and_unload(model, routing_weights=means)
    with torch.inference_mode():
        # as above
        torch.testing.assert_close(plain(**inputs).last_hidden_state, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.3, 0.3], r"routing_weights must be 3 finite numbers, of \['task0', 'task1', 'task2'\]; found \[0.3, 0.3\]"),
        ([0.3, 0.3, float("nan")], "3 finite numbers"),
        (
            {"encoder": RATES},
            r"keyed by the paths of the routed MLPs \['encoder.layer.0.output.dense', .*\['encoder'\]",
        ),
    ],
)
def test_routing_weights_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        wemoe.merge_and_unload(routed(tiny_bert()), routing_weights=given)


def test_the_routed_model_stays_as_it_was_and_shares_no_memory():
    model = routed(tiny_bert())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = wemoe.merge_and_unload(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(isinstance(module, RoutedMLP) for module in model.modules())


def test_the_plain_model_is_trainable_and_has_the_mode_of_the_routed_one():
    model = routed(tiny_bert())
    assert not wemoe.merge_and_unload(model).training
    plain = wemoe.merge_and_unload(model.train())
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_tied_weights_stay_tied():
    base = FAMILIES["gpt2"].make()
    plain = wemoe.merge_and_unload(routed(base))
    assert plain.lm_head.weight is plain.transformer.wte.weight


def test_a_child_that_the_base_was_made_without_stays_away(tmp_path):
    base = BertModel(tiny_bert().config, add_pooling_layer=False).eval()
    plain = wemoe.merge_and_unload(routed(base))
    assert plain.pooler is None
    assert plain.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype):
    base = tiny_bert().to(dtype)
    plain = wemoe.merge_and_unload(routed(base))
    assert {parameter.dtype for parameter in plain.parameters()} == {dtype}


def test_task_vectors_of_another_dtype_are_folded_too():
    base = tiny_bert()
    model = routed(base, task_vector_dtype=torch.bfloat16)
    inputs = inputs_of(base)
    with torch.inference_mode():
        found = wemoe.merge_and_unload(model)(**inputs).last_hidden_state
        # as above
        torch.testing.assert_close(found, model(**inputs).last_hidden_state, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [24, 16])  # 24 is no multiple of a line of the packed layout
def test_sparse_task_vectors_and_a_shared_router_are_folded_too(width, tmp_path):
    base = tiny_bert(intermediate_size=width)
    model = routed(base, method="e_wemoe")
    inputs = inputs_of(base)
    plain = wemoe.merge_and_unload(model)
    with torch.inference_mode():
        # as above
        expected = model(**inputs).last_hidden_state
        torch.testing.assert_close(plain(**inputs).last_hidden_state, expected, atol=2e-5, rtol=1e-4)
    assert plain.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("family", ["openclip, batch first", "openclip, tokens first"])
def test_a_base_of_another_class_is_unloaded_into_an_instance_of_it(family):
    tiny = FAMILIES[family]
    base, inputs = tiny.make(), tiny.inputs()
    model = routed(base)
    with pytest.raises(TypeError, match="base_model must be an instance of ImageEncoder"):
        wemoe.merge_and_unload(model)
    plain = wemoe.merge_and_unload(model, base_model=tiny.make())
    with torch.inference_mode():
        # as above
        torch.testing.assert_close(output(plain, inputs), output(model, inputs), atol=2e-5, rtol=1e-4)


def test_what_is_no_routed_model_is_refused():
    with pytest.raises(TypeError, match="model must be a routed model; found BertModel"):
        wemoe.merge_and_unload(tiny_bert())
    with pytest.raises(TypeError, match="base_model must be a plain BertModel; found Linear"):
        wemoe.merge_and_unload(routed(tiny_bert()), base_model=nn.Linear(2, 2))


def test_a_merged_weight_beyond_float16_is_refused():
    base = tiny_bert()
    experts = {"large": fine_tuned(base, seed=1).half()}
    model = wemoe.upcycle(base.half(), experts, router_hidden_layers=0, progress=False)
    with pytest.raises(ValueError, match=r"the merged 'encoder.layer.0.output.dense.up.weight' in float16"):
        wemoe.merge_and_unload(model, routing_weights=[1e6])
