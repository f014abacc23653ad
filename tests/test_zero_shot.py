"""Zero-shot heads: what a contrastive model itself says of images and texts, for any model of its vision tower."""

import pytest
import torch
from torch.nn import functional as F

import wemoe
from models import fine_tuned, inputs_of
from tiny_clip import save_clip, tiny_clip, tiny_siglip, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CLASSES = ("red", "green", "the blue")
TEMPLATES = ("a photo of a {}.", "the {} of {}", "drawing of the {}")
MODELS = {"clip": tiny_clip, "siglip": tiny_siglip}


def own_logits(model, texts, images):
    """What the model gives for pairs of images and texts; SigLIP is trained with texts of one length."""
    is_siglip = model.config.model_type == "siglip"
    encoded = TOKENIZER(texts, padding="max_length" if is_siglip else True, max_length=12, truncation=True)
    encoded = encoded.convert_to_tensors("pt")
    names = ["input_ids"] if is_siglip else ["input_ids", "attention_mask"]
    with torch.no_grad():
        return model(**{name: encoded[name] for name in names}, pixel_values=images).logits_per_image


@pytest.mark.parametrize("kind", MODELS)
def test_with_one_template_a_head_gives_the_models_own_logits(kind):
    model = MODELS[kind]()
    images = inputs_of(model.vision_model)["pixel_values"]
    head = wemoe.zero_shot_head(model, TOKENIZER, CLASSES, ["a photo of a {}."])
    expected = own_logits(model, [f"a photo of a {name}." for name in CLASSES], images)
    if kind == "siglip":
        expected = expected - model.logit_bias.detach()  # the same for every class
    found = head(model.vision_model(pixel_values=images).pooler_output)
    assert expected.argmax(dim=1).unique().numel() > 1 or expected.std() > 0.1  # images and classes do differ
    # both are sums of products of unit vectors, times the scale: some units in the last place of fp32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_templates_are_normalised_averaged_and_normalised_again():
    model = tiny_clip()
    head = wemoe.zero_shot_head(model, TOKENIZER, CLASSES, TEMPLATES)
    directions = []
    for name in CLASSES:
        features = []
        for template in TEMPLATES:  # one text at a time, without padding
            encoded = TOKENIZER(template.replace("{}", name), return_tensors="pt")
            with torch.no_grad():
                out = model.get_text_features(encoded["input_ids"], encoded["attention_mask"]).pooler_output[0]
            features.append(out / out.norm())
        mean = torch.stack(features).mean(dim=0)
        directions.append(mean / mean.norm())
    # sums in another order: a few units in the last place of fp32
    torch.testing.assert_close(head.classes, torch.stack(directions), rtol=1e-5, atol=1e-6)
    assert torch.equal(head.scale, model.logit_scale.detach().exp())
    assert head.out_features == 3


def test_a_head_of_a_folder_is_that_of_its_model(tmp_path):
    model = save_clip(tmp_path)
    here = wemoe.zero_shot_head(model, TOKENIZER, CLASSES, TEMPLATES)
    there = wemoe.zero_shot_head(tmp_path, None, CLASSES, TEMPLATES)
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_many_texts_are_encoded_a_few_at_a_time(monkeypatch):
    model = tiny_clip()
    whole = wemoe.zero_shot_head(model, TOKENIZER, CLASSES, TEMPLATES)
    monkeypatch.setattr("wemoe.text_towers.TEXTS", 2)
    # batches are padded to other lengths, and kernels add in another order
    torch.testing.assert_close(wemoe.zero_shot_head(model, TOKENIZER, CLASSES, TEMPLATES).classes, whole.classes)


def test_a_head_is_frozen_and_apart_from_its_model():
    model = tiny_clip()
    head = wemoe.zero_shot_head(model, TOKENIZER, CLASSES)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    before = head.projection.clone()
    with torch.no_grad():
        model.visual_projection.weight.zero_()
    assert torch.equal(head.projection, before)


def test_the_models_mode_and_gradients_stay_as_they_were():
    model = tiny_clip().train()
    wemoe.zero_shot_head(model, TOKENIZER, CLASSES)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_a_head_is_saved_with_a_routed_model_and_loaded_without_the_text_tower(kind, tmp_path):
    model = MODELS[kind]()
    tower = model.vision_model
    images = inputs_of(tower)
    routed = wemoe.upcycle(tower, {"x": fine_tuned(tower, 1), "y": fine_tuned(tower, 2)})
    head = wemoe.zero_shot_head(model, TOKENIZER, CLASSES)
    routed.save_pretrained(tmp_path, heads={"x": head})
    found = wemoe.load_heads(tmp_path)["x"]
    assert isinstance(found, wemoe.ZeroShotHead)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    again = wemoe.from_pretrained(tmp_path)
    with torch.no_grad():
        expected, logits = (h(m(**images).pooler_output) for m, h in ((routed.eval(), head), (again.eval(), found)))
    assert torch.equal(logits, expected)


def test_cosines_do_not_know_the_size_of_features():
    head = wemoe.ZeroShotHead(F.normalize(torch.randn(3, 4), dim=1), torch.tensor(10.0), torch.randn(4, 5))
    pooled = torch.randn(2, 5)
    # a power of two changes no bit of what is normalised
    assert torch.equal(head(pooled), head(4 * pooled))
    assert head(pooled).abs().max() <= 10.0


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], TEMPLATES, r"classes must be a list of at least one text; found \[\]"),
        ("red", TEMPLATES, "classes must be a list of at least one text; found 'red'"),
        (CLASSES, [], r"templates must be a list of at least one text; found \[\]"),
        (CLASSES, ["a {}", "a photo"], "templates must have '{}' where the class stands; found 'a photo'"),
    ],
)
def test_texts_that_say_nothing_of_a_class_are_refused(classes, templates, message):
    with pytest.raises(ValueError, match=message):
        wemoe.zero_shot_head(tiny_clip(), TOKENIZER, classes, templates)


def test_a_model_without_a_text_tower_is_refused(tmp_path):
    tower = tiny_clip().vision_model
    with pytest.raises(ValueError, match=r"model must have a text tower, as CLIP and SigLIP have; CLIPVisionModel la"):
        wemoe.zero_shot_head(tower, TOKENIZER, CLASSES)
    with pytest.raises(TypeError, match="tokenizer must be given with a model in memory; found None"):
        wemoe.zero_shot_head(tiny_clip(), None, CLASSES)
    tower.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have a tokenizer, to read texts; found"):
        wemoe.zero_shot_head(tmp_path, None, CLASSES)
