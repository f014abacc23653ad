"""Folders of images: classes are folders, in the order of their names."""

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from task_folders import write_jsonl
from wemoe.data.readers import ImageReader
from wemoe.data.task_files import load_task
from wemoe.task_config import TaskConfig

READER = ImageReader(ViTImageProcessorPil(size={"height": 8, "width": 8}), "image")
COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}


def write_image(file, colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 10), COLOURS[colour]).save(file)


def folder_of(folder, classes=("red", "green", "blue"), samples=2):
    """One folder for each class, and what else people have in such folders."""
    for name in classes:
        for number in range(samples):
            write_image(folder / name / "deeper" / f"{number}.PNG", name)
        (folder / name / "notes.txt").write_text("no image")
        (folder / name / "._0.png").write_text("what macOS leaves")
    (folder / ".cache").mkdir()
    (folder / "README").write_text("nothing")
    return folder


def task(config, num_labels=3, head_names=(), parts=("train", "validation", "unlabeled", "test")):
    return load_task("colours", config, READER, num_labels, head_names, parts)


def test_classes_are_numbered_by_their_sorted_names(tmp_path):
    found = task(TaskConfig(test=folder_of(tmp_path / "test"))).test
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    seen = [tuple(found.samples.colours(row)[0, 0].tolist()) for row in range(6)]
    assert seen == [COLOURS[name] for name in ("blue", "blue", "green", "green", "red", "red")]
    assert found.samples.inputs([0, 5])["pixel_values"].shape == (2, 3, 8, 8)


def test_numbers_are_sorted_as_text(tmp_path):
    """As torchvision and datasets have it: class `10` stands before `2`, and is no label of number 10."""
    for name in ("10", "2"):
        write_image(tmp_path / "test" / name / "a.png", "red")
    assert task(TaskConfig(test=tmp_path / "test"), 2).test.labels.tolist() == [0, 1]


def test_a_part_may_lack_a_class_that_another_part_has(tmp_path):
    config = TaskConfig(train=folder_of(tmp_path / "train"), test=folder_of(tmp_path / "test", ("red", "green")))
    assert task(config).test.labels.tolist() == [1, 1, 2, 2]
    assert task(config, parts=("test",)).test.labels.tolist() == [1, 1, 2, 2]


def test_the_heads_own_names_go_before_the_order_of_folders(tmp_path):
    """As words where it knows all of them, else number by number."""
    config = TaskConfig(test=folder_of(tmp_path / "test", samples=1))
    assert task(config, head_names=("red", "green", "blue")).test.labels.tolist() == [2, 1, 0]
    assert task(config, head_names=("rouge", "vert", "bleu")).test.labels.tolist() == [0, 1, 2]
    named = config.model_copy(update={"labels": ("green", "blue", "red")})
    assert task(named).test.labels.tolist() == [1, 0, 2]


def test_folders_must_be_as_many_as_the_head_has_outputs(tmp_path):
    with pytest.raises(
        ValueError, match=r"tasks.colours.labels must be those of the data, which have 3: blue, green, r"
    ):
        task(TaskConfig(test=folder_of(tmp_path / "test")), num_labels=2)


def test_unlabeled_images_need_no_folders(tmp_path):
    for name in COLOURS:
        write_image(tmp_path / "pool" / f"{name}.png", name)
    config = TaskConfig(unlabeled=tmp_path / "pool", test=folder_of(tmp_path / "test"))
    assert np.array_equal(task(config).unlabeled.colours(0)[0, 0], COLOURS["blue"])
    assert len(task(config).unlabeled) == 3
    assert len(task(TaskConfig(unlabeled=tmp_path / "test", test=tmp_path / "test")).unlabeled) == 6


def test_a_task_may_have_folders_and_files(tmp_path):
    folder_of(tmp_path / "train")
    rows = [{"image": "train/red/deeper/0.PNG", "label": "red"}, {"image": "train/blue/deeper/0.PNG", "label": 0}]
    config = TaskConfig(train=tmp_path / "train", test=write_jsonl(tmp_path / "test.jsonl", rows))
    found = task(config)
    assert found.test.labels.tolist() == [2, 0]
    assert found.pooling == "pooler"
    assert found.unlabeled is found.train.samples


def test_several_folders_are_one_part(tmp_path):
    config = TaskConfig(test=(folder_of(tmp_path / "a", ("red",)), folder_of(tmp_path / "b", ("red", "green", "blue"))))
    assert task(config).test.labels.tolist() == [2, 2, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: None, FileNotFoundError, "a task's images must be in a folder; found none at '.*test'"),
        (lambda folder: folder.mkdir(), ValueError, "test must hold a folder of images for each class; found no image"),
        (lambda folder: write_image(folder / "0.png", "red"), ValueError, "found no image in any folder"),
    ],
)
def test_what_is_no_folder_of_classes_is_refused(tmp_path, make, error, message):
    make(tmp_path / "test")
    with pytest.raises(error, match=message):
        task(TaskConfig(test=tmp_path / "test"))


def test_unlabeled_images_must_be_there(tmp_path):
    (tmp_path / "pool").mkdir()
    with pytest.raises(ValueError, match="pool must hold images; found none"):
        task(TaskConfig(unlabeled=tmp_path / "pool"))


def test_a_class_that_the_head_does_not_know_is_told_by_its_image(tmp_path):
    config = TaskConfig(test=write_jsonl(tmp_path / "test.jsonl", [{"image": "a.png", "label": "rde"}]), image="image")
    config = config.model_copy(update={"train": (folder_of(tmp_path / "train"),)})
    write_image(tmp_path / "a.png", "red")
    with pytest.raises(
        ValueError, match=r"test.jsonl, line 1: column 'label' must be .* found 'rde'; did you mean 'red'"
    ):
        task(config)
