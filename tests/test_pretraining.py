"""The base of the image suite, on the tests' own pack: it learns, is reproducible and cached, its heads are frozen."""

from pathlib import Path

import pytest
import torch

from wemoe.built_in import image_task, load_foundation, load_tasks_of
from wemoe.data.batches import Batch, Labelled
from wemoe.data.images import Pixels
from wemoe.data.shifting import shifted, shifted_images
from wemoe.data.vision8.pack import load_pack
from wemoe.evaluation import evaluate
from wemoe.experts import cached_expert
from wemoe.merge_config import parse_config
from wemoe.pretraining import Pretrained, cached_base, pretrain
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import FineTuning, Pretraining, VisionSuite

PACK = Path(__file__).parent / "data" / "vision4.npz"
SMALL = Pretraining(steps=80, per_task=10, learning_rate=3e-3, shift=1, width=32, layers=2)


@pytest.fixture(scope="module")
def images():
    return {name: load_pack(PACK)[name] for name in ("fashion", "texture")}


@pytest.fixture(scope="module")
def data(images):
    parts = {name: task.parts["pretraining"] for name, task in images.items()}
    return {name: Labelled(Pixels(part.images), torch.from_numpy(part.labels)) for name, part in parts.items()}


LABELS = {"fashion": 10, "texture": 8}


@pytest.fixture(scope="module")
def trained(data):
    return pretrain(data, LABELS, SMALL, progress=False)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def accuracy(model, data):
    def predict(model, batch, task):
        return model({task: batch.inputs["pixel_values"]})[task]

    return evaluate(model, {name: labelled.sorted_batches(50) for name, labelled in data.items()}, predict)


def test_it_learns_every_task_above_its_majority(trained, data):
    for task, found in accuracy(trained, data).items():
        labels = data[task].labels
        assert found > labels.bincount().max() / len(labels) + 0.1, task


def test_the_seed_decides_it_and_torch_s_own_state_is_left_alone(trained, data):
    before = torch.random.get_rng_state()
    again = pretrain(data, LABELS, SMALL, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(trained, again)
    other = pretrain(data, LABELS, Pretraining(**{**vars(SMALL), "seed": 1}), progress=False)
    assert not same(trained, other)


def test_it_is_trained_once_for_each_recipe_and_each_data(tmp_path, data):
    how = Pretraining(**{**vars(SMALL), "steps": 1})
    first = cached_base(tmp_path, data, LABELS, how, progress=False)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = cached_base(tmp_path, data, LABELS, how, progress=False)
    assert file.stat().st_mtime_ns == written
    assert same(first, again)
    assert not again.training
    assert not any(theta.requires_grad for theta in again.heads.parameters())
    cached_base(tmp_path, data, LABELS, Pretraining(**{**vars(how), "shift": 0}), progress=False)
    fewer = {name: labelled.at_most(50) for name, labelled in data.items()}
    cached_base(tmp_path, fewer, LABELS, how, progress=False)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_task_s_logits_do_not_depend_on_the_other_tasks_images(trained):
    images = {name: torch.randn(3, 3, 32, 32) for name in LABELS}
    together = trained(images)
    for task, each in images.items():
        torch.testing.assert_close(trained({task: each})[task], together[task])


def test_the_published_size_is_that_of_the_suite():
    model = Pretrained({"a": 2}, Pretraining()).model
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.patch_size) == (192, 6, 8)
    assert model.config.num_attention_heads == 3
    assert round(sum(theta.numel() for theta in model.parameters()) / 1e6, 2) == 2.71


# --- experts under heads that are there before -----------------------------------------------------------------------


def test_experts_learn_under_the_base_s_own_head_which_stays(tmp_path, trained, images):
    task = image_task(images["fashion"])
    head = trained.heads_by_task["fashion"]
    how = FineTuning(epochs=3, learning_rate=1e-3, batch_size=32, shift=1)
    expert = cached_expert(tmp_path, "fashion", trained.model, task, how, 0, head)
    again = cached_expert(tmp_path, "fashion", trained.model, task, how, 0, head)
    assert same(expert.model, again.model)
    assert torch.equal(expert.head.weight, head.weight)
    assert torch.equal(again.head.weight, head.weight)
    embeddings = [model.embeddings for model in (expert.model, trained.model)]
    assert same(*embeddings)  # the layers alone are trained

    def predict(model, batch, _):
        return head(model(**batch.inputs).pooler_output)

    before, after = (
        evaluate(model, {"fashion": task.train.sorted_batches(60)}, predict)["fashion"]
        for model in (trained.model, expert.model)
    )
    assert after > before + 0.05
    cached_expert(tmp_path, "fashion", trained.model, task, how, 0)  # with a probe
    assert len(list(tmp_path.iterdir())) == 2


# --- shifts --------------------------------------------------------------------------------------------------------


def test_an_image_moves_as_a_whole_and_repeats_its_edges():
    image = torch.arange(36.0).reshape(1, 1, 6, 6).expand(40, 2, 6, 6)
    moved = shifted(image, 2, torch.Generator().manual_seed(0))
    assert moved.shape == image.shape
    places = set()
    for each in moved:
        assert torch.equal(each[0], each[1])  # both channels alike
        rows, columns = each[0, :, 0] // 6, each[0, 0] % 6
        down, right = rows[0] - rows.clamp(1, 4)[0], columns[0]
        expected = 6 * rows[:, None] + columns[None]
        assert torch.equal(each[0], expected)
        places.add((float(each[0, 2, 2]), float(down), float(right)))
    middle = {place[0] for place in places}
    assert middle <= {6 * row + column for row in range(5) for column in range(5)}
    assert len(middle) > 15  # of 25


def test_shifts_are_drawn_from_the_generator_alone_and_may_be_none():
    images = torch.randn(5, 3, 8, 8)
    first, again = (shifted(images, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    generator = torch.Generator().manual_seed(4)
    state = generator.get_state()
    batch = Batch({"pixel_values": images}, torch.arange(5))
    assert shifted_images(batch, 0, generator) is batch
    assert torch.equal(state, generator.get_state())
    assert torch.equal(shifted_images(batch, 3, generator).inputs["pixel_values"], first)


# --- the suite -----------------------------------------------------------------------------------------------------


def described(**settings):
    return parse_config({"suite": {"name": "vision8", "pack": str(PACK), **settings}}).suite


def test_the_suite_is_named_or_described():
    assert parse_config({"suite": "vision8"}).suite == VisionSuite()
    found = described(tasks=["emoji", "fashion"], pretraining={"steps": 5})
    assert found.chosen == ("emoji", "fashion")
    assert found.pretraining == Pretraining(steps=5)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tasks": ["emojis"]}, "suite.tasks: must be among the suite's, mnist, fashion, .*; found 'emojis'"),
        ({"max_length": 3}, "suite.max_length: unknown key"),
        ({"pretraining": {"step": 3}}, "suite.pretraining.step: "),
        ({"name": "vision9"}, "suite.name: must be one of text6, vision8; found 'vision9'"),
    ],
)
def test_what_is_wrong_with_a_suite_is_told_by_its_path(settings, line):
    with pytest.raises(ValueError, match=line):
        described(**settings)


def test_its_foundation_has_tasks_and_heads_of_the_pack(tmp_path, monkeypatch):
    monkeypatch.setenv("WEMOE_CACHE", str(tmp_path))
    config = described(tasks=["texture", "fashion"], pretraining={**vars(SMALL), "steps": 1})
    found = load_foundation(config, Stopwatch(lambda _: None))
    assert list(found.tasks) == list(found.heads) == ["texture", "fashion"]
    assert {name: head.out_features for name, head in found.heads.items()} == LABELS
    assert list(load_tasks_of(config, Stopwatch(lambda _: None))) == ["texture", "fashion"]
    with pytest.raises(
        ValueError, match=r"suite\.tasks must be in the pack, which has \['fashion', .*; found \['mnist'\]"
    ):
        load_tasks_of(described(tasks=["mnist"]), Stopwatch(lambda _: None))


def test_texts_are_not_moved_by_pixels():
    with pytest.raises(
        ValueError, match=r"suite\.fine_tuning: shift must be 0: texts are not moved by pixels; found 2"
    ):
        parse_config({"suite": {"name": "text6", "fine_tuning": {"shift": 2}}})
