"""The figures that are told of fronts, the preferences they are measured at, and data that experts have not seen."""

import math
from dataclasses import replace

import pytest
import torch

from tiny_suite import tiny_suite
from wemoe.configured_fronts import preferences_for
from wemoe.pareto.figures import Figures, figures_of, table
from wemoe.pareto.fronts import Front, Point
from wemoe.pareto.held_out import held_out

TASKS = ("a", "b")


def point(preference, losses, accuracies=(0.5, 0.5)):
    return Point(preference, dict(zip(TASKS, losses, strict=True)), dict(zip(TASKS, accuracies, strict=True)))


def test_a_front_worked_by_hand():
    points = (
        point((0.0, 1.0), (3.0, 1.0), (0.2, 0.9)),
        point((0.5, 0.5), (2.0, 2.0), (0.6, 0.8)),
        point((1.0, 0.0), (1.0, 3.0), (0.8, 0.1)),
    )
    found = figures_of(Front("x", TASKS, points), torch.tensor([4.0, 4.0], dtype=torch.float64))
    assert found.points == 3
    assert found.loss_hypervolume == pytest.approx(3 * 1 + 2 * 1 + 1 * 1)  # slices of the staircase below (4, 4)
    assert found.accuracy_hypervolume == pytest.approx(0.8 * 0.1 + 0.6 * 0.7 + 0.2 * 0.1)
    assert found.controllability == pytest.approx(1)  # more preference, less loss, for both tasks
    assert found.equal_accuracy == pytest.approx(0.7)
    assert found.non_uniformity == pytest.approx(0, abs=1e-12)  # equal losses; corners do not count


def test_non_uniformity_is_the_divergence_of_preference_times_loss_from_equal_shares():
    found = figures_of(Front("x", TASKS, (point((0.25, 0.75), (1.0, 1.0)),)), torch.tensor([4.0, 4.0]))
    assert found.non_uniformity == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


@pytest.mark.parametrize("preferences", [[None], [None, None, None], [(0.0, 1.0), (1.0, 0.0)]])
def test_what_cannot_be_told_is_left_out(preferences):
    points = tuple(point(preference, (1.0 + index, 2.0 - index / 2)) for index, preference in enumerate(preferences))
    found = figures_of(Front("x", TASKS, points), torch.tensor([4.0, 4.0]))
    assert (found.controllability, found.equal_accuracy, found.non_uniformity) == (None, None, None)
    assert found.loss_hypervolume > 0


def test_the_table_has_a_line_for_each_front():
    lines = table({"one": Figures(3, 1.25, 0.5, 0.987, 0.7512, 0.01), "the other": Figures(1, 0, 0, None, None, None)})
    head, first, second = lines.splitlines()
    assert head.split() == ["models", "HV", "losses", "HV", "accuracy", "control", "equal,", "%", "non-unif."]
    assert first.split() == ["one", "3", "1.25", "0.5000", "0.99", "75.1", "0.0100"]
    assert second.split() == ["the", "other", "1", "0", "0.0000", "-", "-", "-"]


def test_equal_preference_is_in_every_grid_once():
    assert preferences_for(2, 3).tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert preferences_for(2, 2).tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
    assert len(preferences_for(3, 4)) == 10  # C(5, 2), thirds among them
    found = preferences_for(3, 3)
    assert len(found) == 6 + 1
    torch.testing.assert_close(found[-1], torch.full((3,), 1 / 3))


def test_what_trains_validates_and_tests_has_no_sample_in_common():
    suite = tiny_suite()
    moved, again = held_out(suite), held_out(suite)
    assert moved.experts is suite.experts
    for name, task in moved.tasks.items():
        whole = suite.tasks[name]
        assert task.train is whole.validation
        rows = [list(part.samples.rows) for part in (task.validation, task.test)]
        assert sorted(rows[0] + rows[1]) == list(range(len(whole.test.samples)))
        assert len(rows[0]) == len(whole.test.samples) // 2
        assert max(rows[0]) > min(rows[1])  # drawn at random: files are often sorted by label
        assert list(again.tasks[name].validation.samples.rows) == rows[0]
        for part, chosen in zip((task.validation, task.test), rows, strict=True):
            assert torch.equal(part.labels, whole.test.labels[chosen])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: {"test": task.test.at_most(1)}, "must have two test samples or more, to be halved; found 1"),
        (lambda task: {"test": None}, "must have two test samples or more, to be halved; found 0"),
        (lambda task: {"validation": None}, "must have labelled validation data to train on; found none"),
    ],
)
def test_data_that_cannot_be_moved_on_are_named(change, message):
    suite = tiny_suite()
    task = suite.tasks["colours"]
    with pytest.raises(ValueError, match=f"task 'colours' {message}"):
        held_out(replace(suite, tasks={"colours": replace(task, **change(task))}))
