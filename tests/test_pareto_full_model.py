"""Fine-tuning a whole model on all tasks at once: each scalarization ends where the mathematics says."""

import builtins
import math

import pytest
import torch
from torch import nn

from wemoe.pareto.full_model import fine_tune_together
from wemoe.pareto.mgda import MGDA

A, B = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])


class Place(nn.Module):
    """A point of the plane; dropout tells the mode."""

    def __init__(self, x, y):
        super().__init__()
        self.place = nn.Parameter(torch.tensor([x, y]))
        self.unused = nn.Parameter(torch.ones(3))
        self.noise = nn.Dropout(0.5)


def losses(model, batch, task):
    """Squared distances from A and, three times, from B, whatever is in the batch: the front is the segment AB."""
    return (model.place - A).square().sum() if task == "a" else 3 * (model.place - B).square().sum()


LOADERS = {"a": [torch.zeros(1)], "b": [torch.zeros(1)]}


def run(base=None, **options):
    settings = {"steps": 400, "learning_rate": 0.05, "final_rate": 0.0, "progress": False}
    return fine_tune_together(base or Place(0.5, 1.0), LOADERS, losses, **settings | options)


def test_linear_scalarization_ends_at_the_weighted_mean():
    model, training = run()
    # r_a x = 3 r_b (1 - x) at equal weights: x = 3/4; Adam with a rate that goes to 0 comes within 1e-3
    torch.testing.assert_close(model.place.data, torch.tensor([0.75, 0.0]), atol=1e-3, rtol=0)
    assert training.history[0]["ray"] == {"a": 0.5, "b": 0.5}
    assert training.history[-1]["weights"] == {"a": 0.5, "b": 0.5}


def test_a_ray_weighs_the_losses():
    model, _ = run(ray=[0.9, 0.1])
    # 0.9 x = 0.3 (1 - x)
    torch.testing.assert_close(model.place.data, torch.tensor([0.25, 0.0]), atol=1e-3, rtol=0)


def test_epo_ends_where_the_losses_are_equal():
    model, training = run(scalarization="epo")
    # x^2 = 3 (1 - x)^2; EPO counts losses as equal up to a non-uniformity of 1e-4, which is a percent of x
    balanced = math.sqrt(3) / (1 + math.sqrt(3))
    torch.testing.assert_close(model.place.data, torch.tensor([balanced, 0.0]), atol=1e-2, rtol=0)
    assert not training.fallbacks


def test_mgda_stops_where_it_meets_the_front():
    pytest.importorskip("torchjd")
    model, training = run(scalarization="mgda")
    assert model.place[1].item() == pytest.approx(0.0, abs=1e-2)
    # From (0.5, 1) the gradient of a is the shorter one, and shorter than any mixture: the run heads for a's minimum
    # until b's gradient opposes it, which it does near the front. The other scalarizations end beyond 0.6.
    assert 0.0 < model.place[0].item() < 0.5
    assert training.history[0]["weights"] == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("gram", "weights"),
    [
        ([[1.0, 0.0], [0.0, 4.0]], [0.8, 0.2]),  # alpha_1 = (4 - 0) / (1 + 4 - 0)
        ([[4.0, -1.0], [-1.0, 1.0]], [2 / 7, 5 / 7]),  # (1 + 1) / (4 + 1 + 2)
        ([[1.0, 2.0], [2.0, 9.0]], [1.0, 0.0]),  # g_1 g_2 > g_1 g_1: the shorter gradient alone
    ],
)
def test_mgda_takes_the_shortest_combination_of_gradients(gram, weights):
    pytest.importorskip("torchjd")
    found = MGDA()(torch.ones(2), torch.tensor(gram), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(found, torch.tensor(weights))  # exact for two tasks, up to rounding


def test_without_torchjd_mgda_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("torchjd"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'wemoe\[mgda\]'"):
        run(scalarization="mgda")


def test_the_base_is_left_alone_and_the_model_is_in_its_mode():
    base = Place(0.5, 1.0).requires_grad_(False).eval()
    model, _ = run(base, steps=2)
    assert base.place.tolist() == [0.5, 1.0]
    assert not base.place.requires_grad
    assert not model.training
    assert model.place.tolist() != [0.5, 1.0]
    assert model.unused.tolist() == [1.0, 1.0, 1.0]


def test_the_model_trains_in_training_mode_and_one_seed_gives_one_run():
    modes = []

    def noisy(model, batch, task):
        modes.append(model.training)
        return (model.noise(model.place) - A).square().sum()

    def places(seed):
        model, _ = fine_tune_together(Place(0.5, 1.0), LOADERS, noisy, steps=5, seed=seed, progress=False)
        return model.place.tolist()

    before = torch.get_rng_state()
    assert places(0) == places(0) != places(1)
    assert all(modes)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    whole, expected = run(steps=20, scalarization="epo")
    calls = []

    def interrupted(model, batch, task):
        calls.append(task)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return losses(model, batch, task)

    options = {"steps": 20, "learning_rate": 0.05, "final_rate": 0.0, "progress": False, "scalarization": "epo"}
    with pytest.raises(KeyboardInterrupt):
        fine_tune_together(Place(0.5, 1.0), LOADERS, interrupted, checkpoint=tmp_path / "run.pt", **options)
    model, training = run(steps=20, scalarization="epo", checkpoint=tmp_path / "run.pt")
    assert torch.equal(model.place, whole.place)
    assert training.history == expected.history


def test_a_checkpoint_of_another_ray_is_refused(tmp_path):
    run(steps=2, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="must be of a run of the same settings; found ray"):
        run(steps=2, checkpoint=tmp_path / "run.pt", ray=[0.25, 0.75])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scalarization": "pareto"}, r"scalarization must be one of \['epo', 'ls', 'mgda'\]; found 'pareto'"),
        ({"ray": [0.5, 0.6]}, "preference must"),
        ({"ray": [[0.5, 0.5], [1.0, 0.0]]}, r"ray must be one preference \[T\]; found shape \(2, 2\)"),
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"final_rate": 2.0}, r"final_rate must be in \[0, 1\]; found 2.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_losses_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match=r"losses must be of the loaders' tasks, \['a', 'b'\]; found \['a'\]"):
        fine_tune_together(Place(0.0, 0.0), LOADERS, {"a": lambda model, batch: model.place.sum()}, progress=False)


def test_loaders_that_are_no_mapping_are_refused():
    with pytest.raises(TypeError, match="loaders must map task names; found list"):
        fine_tune_together(Place(0.0, 0.0), [[torch.zeros(1)]], losses, progress=False)
