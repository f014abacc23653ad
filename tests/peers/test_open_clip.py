"""Image encoders of OpenCLIP (version 3.3.0), batch first and tokens first, are routed as merged by hand."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.func import functional_call

if importlib.util.find_spec("open_clip"):
    # OpenCLIP and transformers import torchvision, whose wheel is built for CUDA: the compiled operators that it looks
    # up do not load elsewhere.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import wemoe
from models import experts_of, randomised
from wemoe.models import find_blocks

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="OpenCLIP is not installed"),
]

WIDTH = 128


@pytest.fixture(scope="module")
def open_clip():
    return pytest.importorskip("open_clip")


class ImageEncoder(nn.Module):
    """The image encoder of the WEMoE authors: OpenCLIP's model, of which only images are encoded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.encode_image(images)


def image_encoder(open_clip) -> ImageEncoder:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=WIDTH, head_width=64, patch_size=8, image_size=16)
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=64, heads=2, layers=2)
    model = CLIP(16, vision, text)
    del model.transformer  # the text tower, which the authors' encoder goes without
    return ImageEncoder(model).eval()


class TokensFirst(nn.Module):
    """OpenCLIP's transformer whose blocks see hidden states [N, B, D], as those of its older versions."""

    def __init__(self, open_clip) -> None:
        super().__init__()
        self.transformer = open_clip.transformer.Transformer(WIDTH, layers=2, heads=2, batch_first=False)

    def forward(self, images):
        tokens = images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(1)[:, : 3 * WIDTH].unflatten(1, (3, WIDTH))
        return self.transformer(tokens)


@pytest.mark.parametrize("make", [image_encoder, TokensFirst])
def test_every_image_equals_the_encoder_merged_for_it_by_hand(open_clip, make):
    base = make(open_clip).eval()
    experts = experts_of(base)
    model = randomised(wemoe.upcycle(base, experts))
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad(), wemoe.record_routing(model) as routing:
        found = model(images)
    merged = wemoe.task_arithmetic(base, experts, 0.3)
    assert len(find_blocks(base)) == 2
    for b in range(3):
        theta = {}
        for path in find_blocks(base):
            weights = routing[f"{path}.mlp"][0][b]
            for name, theta_0 in base.named_parameters():
                if name.startswith(f"{path}.mlp."):
                    task_vectors = [expert.get_parameter(name) - theta_0 for expert in experts.values()]
                    theta[name] = theta_0 + sum(w * tau for w, tau in zip(weights, task_vectors, strict=True))
        with torch.no_grad():
            expected = functional_call(merged, theta, (images[b : b + 1],))
        # fp32 sums of 128 to 512 terms, in another order, relative to the largest output
        torch.testing.assert_close(found[b : b + 1], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
