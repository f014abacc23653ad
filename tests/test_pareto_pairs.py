"""benchmarks/pareto_pairs.py on the tiny suite: the parts of the data, all fronts of a pair, and resuming."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tiny_suite import tiny_suite
from wemoe.pareto import Front
from wemoe.pareto.held_out import held_out


@pytest.fixture
def pairs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("pareto_pairs")


@pytest.fixture
def tiny(pairs, monkeypatch):
    """The script with tiny tasks and few steps; returns it with its recipe."""

    def load(pair, seed):
        return held_out(tiny_suite().only(pair))

    monkeypatch.setattr(pairs, "load_pair", load)
    monkeypatch.setattr(pairs, "PAIRS", (("colours", "animals"),))
    return pairs, pairs.Recipe(steps=2, batch_size=4, samples=6, choosing_samples=4, preferences=3, scalings=(0.5, 1.0))


def test_a_pair_has_the_fronts_that_the_summary_reads(tiny):
    pairs, recipe = tiny
    result = json.loads(json.dumps(pairs.run_pair(("colours", "animals"), 0, recipe)))
    fronts = {found["label"]: Front.from_dict(found) for found in result["fronts"]}
    points = {label: len(front.points) for label, front in fronts.items()}
    assert points == {
        "pre-trained": 1,
        "individual models": 2,
        "task arithmetic": 3,
        "coefficient grid": len(recipe.coefficients) ** 2,
        "pwemoe-ls": 3,
        "pwemoe-epo": 3,
    }
    assert result["scaling"] in recipe.scalings
    assert set(result["training"]) == {"ls", "epo"}
    row = importlib.import_module("pareto_summary").row(result)
    assert row["pair"] == "colours+animals"


def test_results_that_are_there_are_kept_if_they_are_of_the_same_recipe(tiny, tmp_path, monkeypatch):
    pairs, recipe = tiny
    made = []

    def run_pair(pair, seed, recipe):
        made.append((pair, seed))
        return {"recipe": pairs.asdict(recipe)}

    monkeypatch.setattr(pairs, "run_pair", run_pair)
    pairs.run(tmp_path, recipe, reverse=False, seeds=(0, 1))
    pairs.run(tmp_path, recipe, reverse=True, seeds=(0, 1, 2))
    assert made == [(("colours", "animals"), seed) for seed in (0, 1, 2)]
    pairs.run(tmp_path, replace(recipe, steps=3), reverse=True, seeds=(0, 1))
    assert [seed for _, seed in made[3:]] == [1, 0]
