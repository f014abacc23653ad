"""PyTorch's machinery on whole routed models: compiled, exported, under autocast, moved, copied."""

import copy
import pickle

import pytest
import torch

import wemoe
from headed import HEADED, backbone, headed_experts, routed_backbone
from models import BASES, experts_of, inputs_of
from test_upcycling import output, randomised
from wemoe.token_masks import current_token_mask


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


@pytest.fixture
def model(base):
    return randomised(wemoe.upcycle(base, experts_of(base)))


def router_gradients(model, run, inputs):
    model.zero_grad()
    output(run, inputs).float().square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = tolerance * gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_compiled_models_train_their_routers_without_a_graph_break(model):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (3, 5):  # the second batch makes the size of a batch dynamic
        inputs = inputs_of(model, batch)
        torch.testing.assert_close(output(compiled, inputs), output(model, inputs))
        expected = router_gradients(model, model, inputs)
        # the same operations; only the order in which gradients are added up may differ
        assert_same_gradients(router_gradients(model, compiled, inputs), expected, 1e-5)


@pytest.mark.slow
# inductor's own imports use what torch deprecates
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_trains_the_routers(model):
    compiled = torch.compile(model, fullgraph=True)
    inputs = inputs_of(model)
    # fp32, with elementwise work fused: sums of 16 to 24 terms in another order, through two blocks
    torch.testing.assert_close(output(compiled, inputs), output(model, inputs), atol=1e-5, rtol=1e-5)
    expected = router_gradients(model, model, inputs)
    assert_same_gradients(router_gradients(model, compiled, inputs), expected, 1e-4)


@pytest.mark.parametrize("kind", HEADED)
def test_headed_models_compile_without_a_graph_break(kind):
    experts = headed_experts(kind)
    headed = wemoe.with_head(routed_backbone(experts), experts["two"])
    compiled = torch.compile(headed, fullgraph=True, backend="aot_eager")
    inputs = inputs_of(backbone(headed))
    torch.testing.assert_close(compiled(**inputs).logits, headed(**inputs).logits)


@pytest.mark.parametrize("strict", [True, False])
# transformers' collector of hidden states and our token masks are set and set back inside one forward
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects happened:UserWarning")
def test_an_exported_model_takes_any_batch(model, strict):
    inputs = inputs_of(model, batch=3)
    shapes = {name: {0: torch.export.Dim("batch", min=2, max=64)} for name in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=strict)
    assert any("wemoe.routed_linear" in str(node.target) for node in program.graph.nodes)
    assert current_token_mask() is None  # tracing leaves nothing behind
    other = inputs_of(model, batch=5)
    torch.testing.assert_close(output(program.module(), other), output(model, other))


def test_autocast_gives_the_outputs_and_router_gradients_of_single_precision(model):
    inputs = inputs_of(model)
    exact, expected = output(model, inputs), router_gradients(model, model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradients = output(model, inputs), router_gradients(model, model, inputs)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    # bf16 keeps 8 bits; two blocks of a dozen roundings each
    torch.testing.assert_close(found.float(), exact, atol=0.05 * exact.abs().max().item(), rtol=0)
    assert_same_gradients(gradients, expected, 0.1)


def test_a_model_leaves_memory_and_comes_back(model):
    """As loaders do it that make a model without memory and fill it afterwards."""
    inputs = inputs_of(model)
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


def test_a_model_changes_its_dtype(model):
    inputs = inputs_of(model)
    double = copy.deepcopy(model).double()
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    inputs64 = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    # fp32 against fp64, through two blocks of width 16
    torch.testing.assert_close(output(double, inputs64).float(), output(model, inputs), atol=1e-5, rtol=1e-5)
    assert torch.equal(output(double.float(), inputs), output(model, inputs))


def test_copies_after_inference_mode_still_train(model):
    inputs = inputs_of(model)
    with torch.inference_mode():
        expected = output(model, inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(twin, inputs), expected)
        gradients = router_gradients(twin, twin, inputs)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_training_step_moves_the_routers_alone(model):
    before = copy.deepcopy(model.state_dict())
    router_gradients(model, model, inputs_of(model))
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
