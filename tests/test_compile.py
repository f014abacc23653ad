"""PyTorch's machinery on whole routed models: compiled, exported, under autocast, moved, copied."""

import copy
import pickle

import pytest
import torch

import wemoe
from headed import headed_experts, inputs_for, routed_backbone
from test_families import make
from tiny_families import output
from wemoe.routed_methods import ROUTED_METHODS
from wemoe.routing_scope import current_scope

MODELS = ("bert", "vit", "gpt2")  # tokens that vote: those not padded, all, and the prompt's


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(params=ROUTED_METHODS)
def made(request, kind):
    _, _, model, inputs = make(kind, method=request.param)
    return model, inputs


def dtypes_of(model):
    """Those of the numbers of a model; sparse task vectors have masks and offsets too."""
    return {p.dtype for p in model.parameters() if p.is_floating_point()}


def part_of(inputs, samples):
    return {name: value[:samples] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def router_gradients(model, run, inputs):
    model.zero_grad()
    output(run, inputs).float().square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(found, expected, tolerance):
    """The error of all gradients together, relative to their size."""
    assert found.keys() == expected.keys()
    found, expected = (torch.cat([each.flatten() for each in gradients.values()]) for gradients in (found, expected))
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_compiled_models_train_their_routers_without_a_graph_break(made):
    model, inputs = made
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for samples in (3, 2):  # the second batch makes the size of a batch dynamic
        batch = part_of(inputs, samples)
        torch.testing.assert_close(output(compiled, batch), output(model, batch))
        expected = router_gradients(model, model, batch)
        # the same operations; only the order in which gradients are added up may differ
        assert_same_gradients(router_gradients(model, compiled, batch), expected, 1e-5)


@pytest.mark.slow
# inductor's own imports use what torch deprecates
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_trains_the_routers(made):
    model, inputs = made
    compiled = torch.compile(model, fullgraph=True)
    # fp32, with elementwise work fused: sums of 16 to 24 terms in another order, through two blocks
    torch.testing.assert_close(output(compiled, inputs), output(model, inputs), atol=1e-5, rtol=1e-5)
    expected = router_gradients(model, model, inputs)
    assert_same_gradients(router_gradients(model, compiled, inputs), expected, 1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_headed_models_compile_without_a_graph_break(kind):
    experts = headed_experts(kind)
    headed = wemoe.with_head(routed_backbone(experts), experts["two"])
    compiled = torch.compile(headed, fullgraph=True, backend="aot_eager")
    inputs = inputs_for(headed)
    torch.testing.assert_close(compiled(**inputs).logits, headed(**inputs).logits)


@pytest.mark.parametrize("strict", [True, False])
# transformers' collector of hidden states and our token masks are set and set back inside one forward
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects happened:UserWarning")
def test_an_exported_model_takes_any_batch(made, strict):
    model, inputs = made
    if model.can_generate():
        inputs |= {"use_cache": False}  # a cache is no output that torch can export
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {name: {0: batch} if isinstance(value, torch.Tensor) else None for name, value in inputs.items()}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=strict)
    op = "wemoe.merge_weights" if model.routing_config.reads == "preference" else "wemoe.routed_linear"
    assert any(op in str(node.target) for node in program.graph.nodes)
    assert current_scope().token_mask is None  # tracing leaves nothing behind
    other = part_of(inputs, 2)
    torch.testing.assert_close(output(program.module(), other), output(model, other))


def test_autocast_gives_the_outputs_and_router_gradients_of_single_precision(made):
    model, inputs = made
    exact, expected = output(model, inputs), router_gradients(model, model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = output(model, inputs), router_gradients(model, model, inputs)
    assert dtypes_of(model) == {torch.float32}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    # bf16 keeps 8 bits; two blocks of a dozen roundings each
    torch.testing.assert_close(found.float(), exact, atol=0.05 * exact.abs().max().item(), rtol=0)
    # a router's hidden unit near zero may change sides; 0.06 was the most in three seeds
    assert_same_gradients(gradients, expected, 0.1)


def test_a_model_leaves_memory_and_comes_back(made):
    """As loaders do it that make a model without memory and fill it afterwards."""
    model, inputs = made
    expected, state = output(model, inputs), model.state_dict()
    # a state dict has none of the buffers that a configuration fixes
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to("meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    for name, buffer in buffers.items():
        model.get_buffer(name).copy_(buffer)
    assert torch.equal(output(model, inputs), expected)


def test_a_model_changes_its_dtype(made):
    model, inputs = made
    double = copy.deepcopy(model).double()
    assert dtypes_of(double) == {torch.float64}
    inputs64 = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    # fp32 against fp64, through two blocks of width 16
    torch.testing.assert_close(output(double, inputs64).float(), output(model, inputs), atol=1e-5, rtol=1e-5)
    assert torch.equal(output(double.float(), inputs), output(model, inputs))


def test_copies_after_inference_mode_still_train(made):
    model, inputs = made
    with torch.inference_mode():
        expected = output(model, inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(twin, inputs), expected)
        gradients = router_gradients(twin, twin, inputs)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_training_step_moves_the_routers_alone(made):
    model, inputs = made
    before = copy.deepcopy(model.state_dict())
    router_gradients(model, model, inputs)
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    named = model.named_parameters(remove_duplicate=False)  # a shared router has a name in every block
    assert moved == {name for name, p in named if p.requires_grad}
