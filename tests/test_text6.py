"""The frozen text pack is whole, and its parts are disjoint."""

import itertools

import pytest

from wemoe.data import text6

PARTS = ("train", "validation", "unlabeled", "test")


@pytest.fixture(scope="module")
def tasks():
    return text6.load()


def texts_of(task, part):
    return task.unlabeled if part == "unlabeled" else getattr(task, part).texts


def test_six_tasks_with_their_labels(tasks):
    assert {name: len(task.label_names) for name, task in tasks.items()} == {
        "movies": 2,
        "amazon": 2,
        "supersense": 25,
        "hypernym": 3,
        "icd": 21,
        "pos": 4,
    }


def test_sizes_are_those_that_the_documentation_tells(tasks):
    sizes = {name: tuple(len(texts_of(task, part)) for part in PARTS) for name, task in tasks.items()}
    assert sizes.pop("amazon") == (1274, 273, 988, 442)
    assert set(sizes.values()) == {(1500, 300, 1000, 600)}


def test_no_text_is_in_two_parts_of_a_task(tasks):
    for task in tasks.values():
        parts = {part: set(texts_of(task, part)) for part in PARTS}
        for one, other in itertools.combinations(PARTS, 2):
            assert not parts[one] & parts[other], (task.name, one, other)


def test_every_label_is_used_and_in_range(tasks):
    for task in tasks.values():
        for part in (task.train, task.validation, task.test):
            assert len(part.labels) == len(part.texts)
            assert set(part.labels) <= set(range(len(task.label_names)))
        assert set(task.train.labels) == set(range(len(task.label_names)))


def test_hypernym_and_pos_are_tasks_of_pairs(tasks):
    pairs = {name for name, task in tasks.items() if isinstance(task.train.texts[0], tuple)}
    assert pairs == {"hypernym", "pos"}


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"?"])
def test_a_damaged_pack_is_named(tmp_path, damage):
    pack = tmp_path / "text6.json.xz"
    pack.write_bytes(damage(text6.PACK.read_bytes()))
    with pytest.raises(ValueError, match=r"text6\.json\.xz' is damaged: its sha256 must be"):
        text6.load(pack)
