"""A whole upcycled model on CUDA: outputs and gradients of the CPU's, saved, loaded and merged there."""

import copy

import pytest
import torch

import wemoe
from models import BASES, experts_of, inputs_of, randomised
from on_gpu import DEVICE

METHODS = ["wemoe", "e_wemoe", "pwemoe"]

# fp32 through two blocks of width 16, whose sums are taken in another order
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def upcycled(base, method="wemoe"):
    model = randomised(wemoe.upcycle(base, experts_of(base), method=method, progress=False))
    if method == "pwemoe":
        wemoe.set_preference(model, [0.2, 0.3, 0.5])
    return model


def trained_gradients(model, inputs):
    """The hidden states, and the gradient of every router's parameters by name."""
    model.zero_grad()
    hidden = model(**inputs).last_hidden_state
    hidden.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return hidden.detach(), gradients


def to_device(inputs):
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


@pytest.mark.parametrize("method", METHODS)
def test_outputs_and_gradients_are_those_of_the_cpu(path, base, method):
    model, inputs = upcycled(base, method), inputs_of(base)
    expected, expected_gradients = trained_gradients(model, inputs)
    found, gradients = trained_gradients(copy.deepcopy(model).to(DEVICE), to_device(inputs))
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.cpu(), expected_gradients[name], **CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_and_loaded_gives_the_same(path, base, method, tmp_path):
    model, inputs = upcycled(base, method).to(DEVICE), to_device(inputs_of(base))
    model.save_pretrained(tmp_path / "merged")
    loaded = wemoe.from_pretrained(tmp_path / "merged", device_map=DEVICE)
    if method == "pwemoe":
        wemoe.set_preference(loaded, [0.2, 0.3, 0.5])
    with torch.no_grad():
        expected, found = (m(**inputs).last_hidden_state for m in (model, loaded))
    assert found.device.type == DEVICE.type
    assert torch.equal(found, expected)


def test_there_and_back_again(base):
    model, inputs = upcycled(base), inputs_of(base)
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        after = model.to(DEVICE).to("cpu")(**inputs).last_hidden_state
    assert torch.equal(after, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(path, base, dtype):
    model, inputs = upcycled(base), inputs_of(base)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        there = {name: t.to(DEVICE, dtype if t.is_floating_point() else None) for name, t in inputs.items()}
        found = model.to(DEVICE, dtype)(**there).last_hidden_state
    assert found.dtype == dtype
    # weights and hidden states are rounded some twenty times on their way through two blocks
    assert (found.cpu().float() - expected).abs().max() <= 20 * torch.finfo(dtype).eps * expected.abs().max()


def test_a_sample_does_not_depend_on_the_batch(path, base):
    model, inputs = upcycled(base).to(DEVICE), to_device(inputs_of(base))
    with torch.no_grad():
        together = model(**inputs).last_hidden_state
        for i in range(len(together)):
            alone = model(**{name: tensor[i : i + 1] for name, tensor in inputs.items()}).last_hidden_state
            torch.testing.assert_close(alone[0], together[i], **CLOSE)  # plain layers are cuBLAS's


@pytest.mark.filterwarnings("ignore")  # what inductor says about itself, its imports and this GPU
def test_compiles(base):
    model, inputs = upcycled(base).to(DEVICE), to_device(inputs_of(base))
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        found = torch.compile(model)(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, **CLOSE)


def test_one_step_of_training_lowers_the_loss(path, base):
    model, inputs = upcycled(base).to(DEVICE), to_device(inputs_of(base))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**inputs).last_hidden_state[..., 0].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
