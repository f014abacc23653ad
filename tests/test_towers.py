"""Bases of two towers, CLIP and SigLIP, whose experts are vision towers alone."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection, SiglipVisionModel

import wemoe
from models import VISION, fine_tuned
from tiny_clip import save_clip, tiny_clip, tiny_siglip
from wemoe.configured_merge import check, merge
from wemoe.model_folders import load_base, load_model
from wemoe.weights import open_weights

KINDS = {"clip": (tiny_clip, CLIPVisionModel), "siglip": (tiny_siglip, SiglipVisionModel)}


@pytest.fixture(scope="module", params=KINDS)
def models(request, tmp_path_factory):
    """A whole model as a folder, two experts of its vision tower, and the class of the towers."""
    folder = tmp_path_factory.mktemp(request.param)
    make, kind = KINDS[request.param]
    whole = save_clip(folder / "base", make())
    experts = {name: fine_tuned(whole.vision_model, seed) for seed, name in enumerate("xy", start=1)}
    for name, expert in experts.items():
        expert.save_pretrained(folder / name)
    return folder, whole.vision_model, experts, kind


def settings(folder, **changes):
    models = [{"model": str(folder / name), "task": name, "parameters": {"weight": 1.0}} for name in "xy"]
    return {"base_model": str(folder / "base"), "models": models, "merge_method": "task_arithmetic"} | changes


def test_a_tower_is_merged_from_the_whole_models_folder(models, tmp_path):
    folder, tower, experts, kind = models
    merge(settings(folder, parameters={"lambda": 0.4}), tmp_path / "out", progress=False)
    merged, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [kind.__name__]
    assert type(AutoModel.from_pretrained(tmp_path / "out")) is kind
    expected = wemoe.task_arithmetic(tower, experts, 0.4)
    state = merged.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_a_tower_is_upcycled_from_the_whole_model(models):
    folder, tower, experts, kind = models
    paths = {name: folder / name for name in experts}
    torch.manual_seed(0)
    expected = wemoe.upcycle(tower, experts)
    for base, others in ((folder / "base", paths), (load_model(str(folder / "base"), "base"), experts)):
        torch.manual_seed(0)  # of the routers
        routed = wemoe.upcycle(base, others)
        assert isinstance(routed, kind)
        found = routed.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())


def test_the_base_is_loaded_as_what_the_experts_are(models):
    folder, tower, experts, kind = models
    base = load_base(str(folder / "base"), experts["x"])
    assert type(base) is kind
    assert all(torch.equal(found, tower.state_dict()[name]) for name, found in base.state_dict().items())


def test_preflight_describes_the_tower_alone(models):
    folder, tower, _, kind = models
    report = check(settings(folder))
    assert not report.problems
    assert report.models[0].model_class == kind.__name__
    assert report.models[0].parameters == sum(parameter.numel() for parameter in tower.parameters())
    assert report.left_out == {}


def test_what_does_not_fit_the_tower_is_named(models, tmp_path):
    folder, _, experts, _ = models
    wide = type(experts["x"])(type(experts["x"].config)(**experts["x"].config.to_dict() | {"intermediate_size": 28}))
    wide.save_pretrained(tmp_path / "wide")
    config = settings(folder)
    config["models"][1]["model"] = str(tmp_path / "wide")
    problems = "\n".join(check(config).problems)
    assert (
        "expert_models['y'] must have the shapes of base_model; 'encoder.layers.0.mlp.fc1.weight' is (28, 16)"
        in problems
    )
    assert "intermediate_size is 28, in base_model 24" in problems


def test_a_leftover_of_older_files_is_left_out(tmp_path):
    """The published CLIP holds the numbers of its positions, which today's class computes."""
    whole = save_clip(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file) | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(tensors, file, metadata={"format": "pt"})
    for name in "xy":
        fine_tuned(whole.vision_model, 1).save_pretrained(tmp_path / name)
    report = check(settings(tmp_path))
    assert not report.problems
    assert report.left_out == {"base_model": ("embeddings.position_ids",)}
    assert type(load_base(str(tmp_path / "base"), whole.vision_model)) is CLIPVisionModel


def test_experts_may_have_a_projection_of_their_own(tmp_path):
    whole = save_clip(tmp_path / "base")
    for seed, name in enumerate("xy"):
        expert = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=8))
        expert.vision_model.load_state_dict(fine_tuned(whole.vision_model, seed).state_dict())
        expert.save_pretrained(tmp_path / name)
    report = check(settings(tmp_path))
    assert not report.problems
    assert report.heads == dict.fromkeys("xy", ("visual_projection.weight",))
    expert = load_model(str(tmp_path / "x"), "x")
    assert torch.equal(
        load_base(str(tmp_path / "base"), expert).pre_layrnorm.weight, whole.vision_model.pre_layrnorm.weight
    )


def test_a_whole_model_among_the_experts_is_refused(models, tmp_path):
    folder, *_ = models
    config = settings(folder)
    with open_weights(folder / "base", "base") as base:
        assert "logit_scale" in base.contents
    fine_tuned(load_model(str(folder / "base"), "x"), 5).save_pretrained(tmp_path / "whole")
    config["models"][1]["model"] = str(tmp_path / "whole")
    assert any(
        "must have the architecture of base_model; model_type is" in problem for problem in check(config).problems
    )
