"""What a merge costs is measured and never guessed."""

import sys

import pytest
import torch
from torch import nn

from wemoe.comparison import measuring
from wemoe.comparison.measuring import count_distinct, inference_cost

MEGABYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is told by Linux")
def test_peak_memory_is_what_was_held_at_the_highest_point():
    with measuring.measuring() as cost:
        block = torch.ones(64 * MEGABYTE // 4)
        del block
        small = torch.ones(MEGABYTE // 4)
    # pages that the allocator does not give back are used again, some 0.2 MB; the interpreter may grow by more
    assert 63 * MEGABYTE <= cost.peak_memory < 72 * MEGABYTE
    with measuring.measuring() as cost:
        small += 1
    assert cost.peak_memory < 8 * MEGABYTE  # an earlier peak does not count


def test_memory_that_cannot_be_measured_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "PROCESS", tmp_path / "missing")
    with measuring.measuring() as cost:
        pass
    assert cost.peak_memory is None
    assert cost.seconds >= 0


def test_parameters_of_one_model_count_once():
    linear, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.twin = linear
    assert count_distinct([linear, linear]) == 8
    assert count_distinct([linear, other]) == 8 + 16
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert count_distinct([tied]) == 9 + 3 + 3


class Timed(nn.Module):
    """Gives logits after a number of seconds by the clock, the next one of `seconds` at each call."""

    def __init__(self, clock, *seconds):
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, logits):
        self.clock["now"] += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return logits


def predict(model, batch, task):
    return model(batch)


@pytest.fixture
def clock(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock["now"])
    return clock


def test_inference_is_the_median_of_pairs_over_all_tasks(clock):
    base = Timed(clock, 1.0)
    slow, slower = Timed(clock, 2.0), Timed(clock, 4.0)
    batches = {"a": torch.ones(2, 3), "b": torch.ones(2, 3)}
    assert inference_cost(base, {"a": slow, "b": slower}, batches, predict) == pytest.approx(3.0)
    disturbed = Timed(clock, *[2.0] * 7, 50.0, 2.0)  # one round of seven is slow for another reason
    assert inference_cost(base, {"a": disturbed}, {"a": torch.ones(2, 3)}, predict) == pytest.approx(2.0)


def test_one_thread_is_timed_and_all_come_back(clock):
    threads, seen = torch.get_num_threads(), []
    model = Timed(clock, 1.0)
    model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    inference_cost(model, {"a": model}, {"a": torch.ones(2, 3)}, predict)
    assert set(seen) == {1}
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "broken",
    [
        lambda logits, call: logits * float("nan"),
        lambda logits, call: logits[:, :1],
        lambda logits, call: logits + call,
    ],
    ids=["not finite", "another shape", "another result at each call"],
)
def test_what_gives_wrong_outputs_is_not_timed(clock, broken):
    model = Timed(clock, 1.0)
    model.register_forward_hook(lambda module, inputs, logits: broken(logits, module.calls))
    with pytest.raises(RuntimeError, match="the logits of task 'a' must be finite, of the base's shape"):
        inference_cost(Timed(clock, 1.0), {"a": model}, {"a": torch.ones(2, 3)}, predict)
