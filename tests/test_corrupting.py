"""Corrupted images: what is done to them, what is drawn for each, and which parts of a suite they replace."""

import importlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from tiny_images import tiny_image_suite, with_parts
from tiny_suite import tiny_suite
from wemoe.data.batches import Labelled
from wemoe.data.images import Images, Pixels
from wemoe.off_distribution import CORRUPTIONS, Corruption, corrupted_suite, corrupting

DRAWN = ("motion_blur", "impulse_noise", "gaussian_noise", "spatter")  # the others have nothing to draw


def picture(side=32):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_changes_an_image_and_keeps_its_size(name):
    image = picture()
    before = image.copy()
    for severity in range(1, 6):
        corrupted = Corruption(name, severity)(image, row=3)
        assert corrupted.shape == (32, 32, 3)
        assert corrupted.dtype == np.uint8
        assert not np.array_equal(corrupted, before)
    assert np.array_equal(image, before)


def test_a_severity_is_the_librarys_own():
    image = picture()
    noise = Corruption("gaussian_noise", 2)(np.full((64, 64, 3), 128, np.uint8), row=0)
    # 12,288 draws of standard deviation 0.12: the estimate's own standard error is 0.12 / sqrt(2 * 12,288) = 0.0008.
    assert noise.std() / 255 == pytest.approx(0.12, abs=0.004)
    # Truncation to whole colours moves a mean of 0.3 of the distance by less than one of 255 steps.
    weaker = Corruption("contrast", 2)(image, row=0)
    assert np.abs(weaker - (0.3 * image + 0.7 * image.mean(axis=(0, 1)))).max() < 1.01
    cells = Corruption("pixelate", 2)(image, row=0).reshape(16, 2, 16, 2, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    hit = (Corruption("impulse_noise", 2)(np.full((64, 64, 3), 128, np.uint8), row=0) != 128).mean()
    assert hit == pytest.approx(0.06, abs=0.01)  # of 12,288 values, standard error 0.002


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_depends_on_seed_and_row_alone(name):
    image, corruption = picture(), Corruption(name, seed=1)
    first = corruption(image, row=5)
    np.random.seed(7)
    corruption(image, row=2)
    assert np.array_equal(corruption(image, row=5), first)
    assert not np.array_equal(corruption(image, row=6), first)
    assert not np.array_equal(Corruption(name, seed=2)(image, row=5), first)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_global_generator_is_where_it_was(name):
    np.random.seed(7)
    expected = np.random.uniform(size=3)
    np.random.seed(7)
    Corruption(name)(picture(), row=0)
    assert np.array_equal(np.random.uniform(size=3), expected)


def test_a_spatter_without_a_drop_is_thrown_again(monkeypatch):
    """At severity 1 on 32 x 32 pixels that is one in sixty; the library would return an image of zeros, and warn."""
    library, calls = corrupting._library(), []

    class Counting:
        @staticmethod
        def corrupt(*args, **options):
            calls.append(args)
            return library.corrupt(*args, **options)

    monkeypatch.setattr(corrupting, "_library", lambda: Counting)
    corrupted = [Corruption("spatter", 1)(picture(), row) for row in range(150)]
    assert len(calls) > 150
    assert min(image.max() for image in corrupted) == 255


def test_where_no_draw_gives_colours_that_is_told(monkeypatch):
    class Broken:
        @staticmethod
        def corrupt(*args, **kwargs):
            return np.uint8(np.zeros(1) / np.zeros(1))

    monkeypatch.setattr(corrupting, "_library", lambda: Broken)
    with pytest.raises(ValueError, match="spatter must give finite colours; found none in 20 draws for row 4"):
        Corruption("spatter")(picture(), row=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "motion_blr"}, "no corruption is called 'motion_blr'; did you mean 'motion_blur'?"),
        ({"name": "contrast", "severity": 0}, "severity must be a whole number from 1 to 5; found 0"),
        ({"name": "contrast", "severity": 1.5}, "severity must be a whole number from 1 to 5; found 1.5"),
        ({"name": "contrast", "seed": -1}, "seed must not be negative; found -1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Corruption(**arguments)


def test_a_small_image_is_refused():
    with pytest.raises(ValueError, match=r"must have 32 x 32 pixels or more to be corrupted; found 31 x 31"):
        Corruption("contrast")(picture(31), row=0)


@pytest.mark.parametrize("reason", ["No module named 'imagecorruptions'", "libGL.so.1: cannot open shared object file"])
def test_a_library_that_cannot_be_imported_is_named_with_its_extra_and_the_reason(monkeypatch, reason):
    def missing(name):
        raise ImportError(reason)

    monkeypatch.setattr(importlib, "import_module", missing)
    corrupting._library.cache_clear()
    with pytest.raises(
        ImportError, match=rf"needs imagecorruptions-imaug, pip install 'wemoe\[corruptions\]'.*{reason}"
    ):
        Corruption("contrast")(picture(), row=0)


# --- suites ---------------------------------------------------------------------------------------------------------


def test_unlabeled_and_test_images_are_corrupted_and_no_others():
    suite = tiny_image_suite()
    corrupted = corrupted_suite(suite, "gaussian_noise", severity=3, seed=4)
    how = Corruption("gaussian_noise", 3, seed=4)
    assert list(corrupted.tasks) == list(suite.tasks)
    assert corrupted.experts is suite.experts
    for name, task in suite.tasks.items():
        found = corrupted.tasks[name]
        assert found.train is task.train
        assert found.validation is task.validation
        assert torch.equal(found.test.labels, task.test.labels)
        for old, new in ((task.unlabeled, found.unlabeled), (task.test.samples, found.test.samples)):
            assert type(new) is Pixels  # in memory, so that steps do not corrupt anew
            for row in (0, 7):
                expected = how(old.colours(row), row)
                assert np.array_equal(new.colours(row), expected)
                assert torch.equal(new.inputs([row])["pixel_values"], old.prepare([expected]))


def test_files_are_corrupted_when_they_are_read_in_their_own_size(tmp_path):
    Image.fromarray(picture(48)).save(tmp_path / "a.png")
    Image.fromarray(picture(40)).save(tmp_path / "b.png")
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size=size, crop_size=size)
    files = Images([tmp_path / "a.png", tmp_path / "b.png"], processor)
    suite = with_parts(tiny_image_suite(), unlabeled=files, test=Labelled(files, torch.tensor([0, 1])))
    task = corrupted_suite(suite, "spatter").tasks["hues"]
    assert task.unlabeled is task.test.samples  # as it was: a model that adapts on test images sees the same ones
    assert len(task.unlabeled) == 2
    expected = [Corruption("spatter")(picture(side), row) for row, side in enumerate((48, 40))]
    assert np.array_equal(task.unlabeled.colours(1), expected[1])
    assert torch.equal(task.unlabeled.inputs([0, 1])["pixel_values"], files.prepare(expected))


def test_parts_that_are_missing_stay_missing():
    suite = with_parts(tiny_image_suite(), unlabeled=None, test=None)
    tasks = corrupted_suite(suite, "contrast").tasks
    assert all(task.unlabeled is None and task.test is None for task in tasks.values())


def test_texts_are_refused():
    with pytest.raises(ValueError, match=r"the unlabeled part of task 'colours' must be of them, found Texts"):
        corrupted_suite(tiny_suite(), "contrast")
    mixed = replace(tiny_image_suite().tasks["hues"], test=tiny_suite().tasks["animals"].test)
    with pytest.raises(ValueError, match=r"the test part of task 'hues' must be of them, found Texts"):
        corrupted_suite(replace(tiny_image_suite(), tasks={"hues": mixed}), "contrast")
