"""Data sets of the package `datasets`: splits are parts, features name labels, and images are decoded when needed."""

import datasets
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from tiny_texts import tiny_base
from wemoe.data.hub_datasets import load_split
from wemoe.data.readers import ImageReader, TextReader
from wemoe.data.task_files import load_task
from wemoe.merge_config import parse_config
from wemoe.task_config import DatasetConfig, TaskConfig

READER = ImageReader(ViTImageProcessorPil(size={"height": 8, "width": 8}), "image")
COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))})


def images_of(*names, features=FEATURES):
    values = {"image": [Image.new("RGB", (9, 10), COLOURS[name]) for name in names], "label": list(names)}
    return datasets.Dataset.from_dict(values, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A data set of two splits, as `save_to_disk` writes it."""
    folder = tmp_path_factory.mktemp("dataset")
    parts = {"train": images_of("red", "green", "blue", "green"), "test": images_of("blue", "red")}
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A data set in Parquet files with a card, as the Hub has it."""
    folder = tmp_path_factory.mktemp("repository")
    for split, names in {"train": ("red", "green", "blue", "green"), "test": ("blue", "red")}.items():
        images_of(*names).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(params=["saved", "repository"])
def source(request, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return str(request.getfixturevalue(request.param))


def task(source, num_labels=3, head_names=(), **settings):
    config = TaskConfig.model_validate({"dataset": str(source), "image": "image", **settings})
    return load_task("colours", config, READER, num_labels, head_names)


def test_splits_are_parts_of_a_task(source):
    found = task(source, train="train", test="test")
    assert found.train.labels.tolist() == [0, 1, 2, 1]
    assert found.test.labels.tolist() == [2, 0]
    assert [tuple(found.train.samples.colours(row)[9, 8].tolist()) for row in (0, 1, 2)] == list(COLOURS.values())
    assert found.test.samples.inputs([1])["pixel_values"].shape == (1, 3, 8, 8)
    assert found.unlabeled is found.train.samples
    assert found.pooling == "pooler"


@pytest.mark.parametrize(
    ("split", "labels"),
    [
        ("train[-1:]", [1]),
        ("train[:50%]", [0, 1]),
        ("train[:-1]", [0, 1, 2]),
        (["train[:1]", "test"], [0, 2, 0]),
    ],
)
def test_parts_of_splits_are_written_as_datasets_has_it(source, split, labels):
    assert task(source, validation=split).validation.labels.tolist() == labels


def test_the_heads_names_go_by_word_or_by_number(source):
    assert task(source, test="test", head_names=("blue", "green", "red")).test.labels.tolist() == [0, 2]
    assert task(source, test="test", head_names=("rouge", "vert", "bleu")).test.labels.tolist() == [2, 0]
    assert task(source, test="test", labels=("blue", "red", "green")).test.labels.tolist() == [0, 1]


def test_labels_may_be_numbers_without_names(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "y": datasets.Value("int64")})
    values = {"image": [Image.new("L", (9, 9))] * 3, "y": [2, 0, 1]}
    datasets.Dataset.from_dict(values, features=features).save_to_disk(tmp_path / "grey")
    found = task(tmp_path / "grey", test="train", label="y").test
    assert found.labels.tolist() == [2, 0, 1]
    assert found.samples.colours(0).shape == (9, 9, 3)


def test_unlabeled_data_need_no_labels(tmp_path):
    images_of("red").remove_columns("label").save_to_disk(tmp_path / "pool")
    assert len(task(tmp_path / "pool", unlabeled="train").unlabeled) == 1


def test_a_hidden_label_is_refused_with_its_row(tmp_path):
    values = {"image": [Image.new("RGB", (9, 9))], "label": [-1]}
    datasets.Dataset.from_dict(values, features=FEATURES).save_to_disk(tmp_path / "hidden")
    with pytest.raises(ValueError, match=r"hidden, train, row 0: column 'label' must be a label's name .* found -1"):
        task(tmp_path / "hidden", test="train")


def test_texts_may_be_in_a_data_set(tmp_path):
    _, tokenizer = tiny_base()
    values = {"sentence": ["red dog", "the owl is blue"], "label": ["hot", "cold"]}
    datasets.Dataset.from_dict(values).save_to_disk(tmp_path / "texts")
    config = TaskConfig.model_validate(
        {"dataset": str(tmp_path / "texts"), "test": "train", "text": "sentence", "labels": ["cold", "hot"]}
    )
    found = load_task("words", config, TextReader(tokenizer, ("sentence",), 12, 0), 2).test
    assert found.labels.tolist() == [1, 0]
    assert found.samples.lengths() == [4, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": "tset"}, r"tasks.colours.test must be a split of a data set, '.*'; found 'tset': .*tset"),
        ({"test": "test[1:1]"}, r"tasks.colours.test must .* found .*'test\[1:1\]'"),
        ({"test": "test", "image": "picture"}, r"must have the column 'picture' of images; found \['image', 'label'\]"),
        ({"test": "test", "label": "y"}, r"test, row 0: column 'y' must be there; found the columns"),
    ],
)
def test_what_is_not_in_a_data_set_is_refused(source, settings, message):
    reader = ImageReader(READER.processor, settings.get("image", "image"))
    config = TaskConfig.model_validate({"dataset": source, "image": "image", **settings})
    with pytest.raises(ValueError, match=message):
        load_task("colours", config, reader, 3)


def test_what_is_no_image_is_refused_when_it_is_read(tmp_path):
    datasets.Dataset.from_dict({"image": ["red"], "label": [0]}).save_to_disk(tmp_path / "words")
    samples = task(tmp_path / "words", test="train").test.samples
    with pytest.raises(ValueError, match=r"words, train, row 0: column 'image' must be an image; found str"):
        samples.inputs([0])


def test_a_data_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tasks.x.test must be a split of a data set, '.*none'; found 'test': "):
        load_split(DatasetConfig(name=str(tmp_path / "none")), "test", "tasks.x.test")


def test_a_data_set_that_a_script_makes_is_refused(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "old.py").write_text("")
    with pytest.raises(ValueError, match=r"of a data set without a script; found '.*old': .* `revision: refs/convert"):
        load_split(DatasetConfig(name=str(tmp_path / "old")), "test", "tasks.x.test")


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        ImportError, match=r"tasks.x.test is of a data set, which needs: pip install 'wemoe\[datasets\]'"
    ):
        load_split(DatasetConfig(name="a/b"), "test", "tasks.x.test")


def test_a_configuration_names_a_data_set_shortly_or_in_full(tmp_path):
    """Splits are no paths; a folder is taken from the file's own."""
    (tmp_path / "local").mkdir()
    models = [{"model": "x/expert", "task": "x"}]

    def dataset(found):
        content = {"base_model": "x/base", "models": models, "tasks": {"x": {"dataset": found, "test": "test[:5]"}}}
        return parse_config(content, tmp_path).tasks["x"]

    assert dataset("tanganke/dtd").dataset == DatasetConfig(name="tanganke/dtd")
    assert [str(path) for path in dataset("tanganke/dtd").test] == ["test[:5]"]
    assert dataset("local").dataset.name == str(tmp_path / "local")
    described = {"name": "ufldl-stanford/svhn", "config": "cropped_digits", "revision": "main"}
    assert dataset(described).dataset == DatasetConfig(**described)
    with pytest.raises(ValueError, match=r"tasks.x.dataset.names: unknown key; did you mean 'name'"):
        dataset({"names": "x/y"})
