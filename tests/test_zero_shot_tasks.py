"""Zero-shot heads from a configuration: what the classes are called, and which data say so."""

import pytest
import torch
from PIL import Image

import wemoe
from models import fine_tuned
from task_folders import write_jsonl
from tiny_clip import save_clip
from wemoe.merge_config import parse_config
from wemoe.suites import load_suite

COLOURS = ("blue", "green", "red")
TEMPLATES = ["a photo of a {}.", "the {}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP, an expert of its vision tower, and images in folders of classes and in rows of a file."""
    folder = tmp_path_factory.mktemp("zero-shot")
    whole = save_clip(folder / "base")
    fine_tuned(whole.vision_model, 1).save_pretrained(folder / "expert")
    for name in COLOURS:
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (9, 9 + number), name).save(folder / "images" / name / f"{number}.png")
    rows = [{"image": f"images/{name}/0.png", "label": name} for name in ("red", "green", "blue")]
    write_jsonl(folder / "named.jsonl", rows)
    numbered = [{**row, "label": number} for number, row in enumerate(rows)]
    write_jsonl(folder / "numbered.jsonl", numbered)
    return folder


def suite_of(folder, **task):
    """The suite of one task; its test data are images in folders where nothing else is said."""
    models = [{"model": "expert", "task": "x"}]
    said = {"test": "images", "zero_shot": {}} | task
    return load_suite(parse_config({"base_model": "base", "models": models, "tasks": {"x": said}}, folder))


def labels(suite):
    return suite.tasks["x"].test.labels.tolist()


def test_folders_name_the_classes(folder):
    """With one template; the base is the CLIP itself, of which the vision tower is read."""
    suite = suite_of(folder)
    expected = wemoe.zero_shot_head(folder / "base", None, COLOURS)
    assert torch.equal(suite.heads["x"].classes, expected.classes)
    assert labels(suite) == [0] * 4 + [1] * 4 + [2] * 4
    assert type(suite.base).__name__ == "CLIPVisionModel"


def test_a_suite_reads_models_by_their_cosines_with_the_classes(folder):
    suite = suite_of(folder, zero_shot={"templates": TEMPLATES})
    ((batch, _),) = suite.batches()["x"]
    for model in (suite.base, suite.experts["x"], wemoe.upcycle(suite.base, suite.experts)):
        with torch.no_grad():
            pooled = model(**batch.inputs).pooler_output
            assert torch.equal(suite.predict(model, batch, "x"), suite.heads["x"](pooled))


def test_a_model_in_half_precision_is_read_in_the_heads_own(folder):
    suite = suite_of(folder).to("cpu", torch.bfloat16)
    ((batch, _),) = suite.batches()["x"]
    batch = batch._replace(inputs={"pixel_values": batch.inputs["pixel_values"].bfloat16()})
    assert suite.base.dtype == torch.bfloat16
    assert suite.predict(suite.base, batch, "x").dtype == torch.float32


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"zero_shot": {"classes": ["red", "green", "blue"]}}, [2] * 4 + [1] * 4 + [0] * 4),  # the folders' own words
        ({"zero_shot": {"classes": ["a", "b", "c"]}}, [0] * 4 + [1] * 4 + [2] * 4),  # in the order of the folders
        ({"labels": ["green", "red", "blue"]}, [2] * 4 + [0] * 4 + [1] * 4),
        ({"test": "named.jsonl", "image": "image"}, [2, 1, 0]),  # sorted, since nobody says otherwise
        ({"test": "named.jsonl", "image": "image", "zero_shot": {"classes": ["green", "red", "blue"]}}, [1, 0, 2]),
        ({"test": "numbered.jsonl", "image": "image", "zero_shot": {"classes": ["a", "b", "c"]}}, [0, 1, 2]),
        ({"test": "numbered.jsonl", "image": "image", "labels": ["a", "b", "c"]}, [0, 1, 2]),
    ],
)
def test_classes_have_the_order_of_the_labels(folder, task, expected):
    suite = suite_of(folder, **task)
    assert labels(suite) == expected
    assert suite.tasks["x"].num_labels == suite.heads["x"].out_features == 3


def test_underscores_of_labels_are_spaces(folder, tmp_path):
    for name in ("the_blue", "red"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "images" / name / "0.png")
    suite = suite_of(folder, test=str(tmp_path / "images"))
    expected = wemoe.zero_shot_head(folder / "base", None, ["red", "the blue"])
    assert torch.equal(suite.heads["x"].classes, expected.classes)
    assert labels(suite) == [0, 1]


def test_a_text_tower_may_be_elsewhere_and_is_loaded_once(folder, monkeypatch):
    """Relative to the file, as every path."""
    loaded = []
    load = wemoe.text_towers.load_model
    monkeypatch.setattr("wemoe.text_towers.load_model", lambda name, *rest: loaded.append(name) or load(name, *rest))
    models = [{"model": "expert", "task": task} for task in "xy"]
    said = {"test": "images", "zero_shot": {"model": "./base"}}
    content = {"base_model": "base", "models": models, "tasks": {"x": said, "y": said}}
    suite = load_suite(parse_config(content, folder))
    assert loaded == [str(folder / "base")]
    assert torch.equal(suite.heads["x"].classes, suite.heads["y"].classes)


def test_some_samples_are_drawn_the_same_each_time(folder):
    suites = [suite_of(folder, samples={"test": 5}) for _ in range(2)]
    found, again = (suite.tasks["x"].test for suite in suites)
    assert len(found.samples) == len(found.labels) == 5
    assert len(set(found.labels.tolist())) > 1  # not the first ones of a file that is sorted
    assert torch.equal(found.labels, again.labels)
    assert [COLOURS.index(file.parent.name) for file in found.samples.files] == found.labels.tolist()
    assert len(suite_of(folder, samples=7, adapt_on="test").tasks["x"].unlabeled) == 7
    assert len(suite_of(folder, samples=100).tasks["x"].test.samples) == 12


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"zero_shot": {"templates": ["red"]}}, r"tasks.x.zero_shot.templates: must have '{}' where the class stands"),
        ({"zero_shot": {"classes": ["a", "a", "b"]}}, "tasks.x.zero_shot.classes: must be distinct; found twice: a"),
        ({"zero_shot": {"template": ["{}"]}}, "tasks.x.zero_shot.template: unknown key; did you mean 'templates'"),
        ({"head": "heads"}, "tasks.x: a task must have either head or zero_shot; found both"),
        ({"test": "a.jsonl"}, "tasks.x: zero_shot is of images; name their column as image"),
        ({"pooling": "mean"}, "tasks.x: pooling must be 'pooler' with zero_shot, which reads it; found 'mean'"),
        ({"text": "text"}, "tasks.x: a task must have either text or images; found both"),
        ({"samples": 0}, "tasks.x.samples.train: input should be greater than or equal to 1"),
        ({"samples": {"tset": 1}}, "tasks.x.samples.tset.*: input should be 'train', 'validation'"),
        (
            {"zero_shot": {"model": "expert"}},
            r"zero_shot.model, '.*expert', must have a text tower, as CLIP and SigLIP",
        ),
        (
            {"test": "numbered.jsonl", "image": "image"},
            "tasks.x.zero_shot.classes must name the classes; the labels of the data are numbers",
        ),
        (
            {"zero_shot": {"classes": ["a", "b"]}},
            "tasks.x.labels must be those of the data, which have 3: blue, green, red; the head has 2",
        ),
    ],
)
def test_what_makes_no_head_is_refused_by_its_key(folder, task, message):
    with pytest.raises(ValueError, match=message):
        suite_of(folder, **task)
