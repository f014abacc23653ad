"""Heads are probes, experts are reproducible, and a damaged cache is made again."""

import itertools

import pytest
import torch

from tiny_texts import tiny_base, tiny_tasks
from wemoe.data.batches import ShuffledBatches, sorted_batches, tokenize_task
from wemoe.experts import all_features, cached_expert, fit_head
from wemoe.pooling import mean_features
from wemoe.suite_config import FineTuning


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def task(base):
    return tokenize_task(tiny_tasks()["colours"], base[1], max_length=12)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_sorted_batches_hold_every_text_once(task):
    batches = list(sorted_batches(task.unlabeled, 5))
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(len(task.unlabeled)))
    lengths = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert lengths == sorted(lengths)


def test_shuffled_batches_are_decided_by_the_seed_and_new_each_time(task):
    batches = ShuffledBatches(task.unlabeled, 5, seed=0)
    first, second = ([batch.rows.tolist() for batch in batches] for _ in range(2))
    assert len(first) == len(batches)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(len(task.unlabeled)))
    assert first != second
    assert first == [batch.rows.tolist() for batch in ShuffledBatches(task.unlabeled, 5, seed=0)]


def test_features_are_in_the_texts_order_and_padding_does_not_count(base, task):
    model = base[0]
    features = all_features(model, task.unlabeled, batch_size=7)
    for batch in sorted_batches(task.unlabeled, 1):  # alone, without padding
        with torch.no_grad():
            torch.testing.assert_close(features[batch.rows], mean_features(model, batch), rtol=0, atol=1e-5)


def test_a_head_separates_what_can_be_separated():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3)[labels] + 0.1 * torch.randn(60, 3, generator=generator)
    head = fit_head(features, labels, num_labels=3)
    assert (head(features).argmax(dim=1) == labels).all()
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_fine_tuning_moves_the_encoder_alone_and_leaves_the_base(base, task, tmp_path):
    model = base[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expert = cached_expert(tmp_path, "colours", model, task, FineTuning(epochs=1), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = {name for name, value in expert.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("encoder.") for name in moved)


def test_one_seed_gives_one_expert_made_or_read(base, task, tmp_path):
    arguments = (base[0], task, FineTuning(epochs=1))
    made = cached_expert(tmp_path / "a", "colours", *arguments, seed=0)
    again = cached_expert(tmp_path / "b", "colours", *arguments, seed=0)
    read = cached_expert(tmp_path / "a", "colours", *arguments, seed=0)
    for other in (again, read):
        assert same(made.model, other.model)
        assert same(made.head, other.head)
    assert not same(made.model, cached_expert(tmp_path / "a", "colours", *arguments, seed=1).model)
    assert len(list((tmp_path / "a").iterdir())) == 2


def flip_last_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip_last_byte, lambda content: content[: len(content) // 2], lambda _: b""])
def test_a_damaged_cache_file_is_made_again(base, task, tmp_path, damage):
    arguments = ("colours", base[0], task, FineTuning(epochs=1))
    made = cached_expert(tmp_path, *arguments, seed=0)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="damaged and is made again"):
        again = cached_expert(tmp_path, *arguments, seed=0)
    assert same(made.model, again.model)
    assert file.read_bytes() == whole
