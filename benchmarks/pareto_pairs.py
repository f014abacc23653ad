"""The fronts of pairs of the text suite's tasks: PWEMoE beside what task vectors give without training.

    python benchmarks/pareto_pairs.py gaps OUT     # static gaps of all pairs, seed 0: how PAIRS were chosen
    python benchmarks/pareto_pairs.py run OUT      # one JSON for each pair and seed; those that are there are kept
    python benchmarks/pareto_pairs.py run OUT --reverse   # a second process, from the other end
    python benchmarks/pareto_pairs.py summary OUT  # summary.json and summary.md

Experts and heads have memorised the training texts, whose losses say nothing to a router any more. So each task's
validation texts train the routers and choose the scaling of task arithmetic; of its test texts one half validates, for
the losses of all fronts, and the other half tests, for their accuracies. No text has two of these parts. Routers start
where task arithmetic is at equal weights, at half its scaling.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pareto_summary import write_summary

import wemoe
from wemoe.built_in import Foundation, load_foundation
from wemoe.evaluation import mean_losses
from wemoe.files import check_writable, write_text
from wemoe.info import collect
from wemoe.pareto import evaluate, train
from wemoe.pareto.baselines import (
    COEFFICIENTS,
    SCALINGS,
    base_front,
    coefficient_grid_front,
    individual_front,
    search_scaling,
    task_arithmetic_front,
)
from wemoe.pareto.held_out import held_out
from wemoe.pareto.rays import simplex_grid
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import TextSuite
from wemoe.suites import Suite, fine_tuned_suite

PAIRS = (
    ("hypernym", "icd"),
    ("icd", "pos"),
    ("supersense", "hypernym"),
    ("supersense", "pos"),
    ("movies", "hypernym"),
    ("hypernym", "pos"),
)
"""Of the fifteen pairs whose simple average is 3 points and more below the experts, the six with the largest gap to the
best task arithmetic too (`gaps`)."""
SEEDS = (0, 1, 2)
SUITE = TextSuite()
MERGES = (0.3, 0.5, 0.7, 0.85, 1.0)  # coefficients of both tasks, of which 0.5 is the simple average


@dataclass(frozen=True)
class Recipe:
    """Everything but pair and seed that decides the results.

    The samples are those of a task that a model is measured on, of each part at most; the choosing ones, and the coarse
    grid of preferences, are those that task arithmetic's scaling is chosen on.
    """

    modules: str = "all"
    router_hidden_layers: int = 1
    steps: int = 120
    batch_size: int = 16
    learning_rate: float = 1e-2
    samples: int = 100
    choosing_samples: int = 60
    preferences: int = 11
    coarse_preferences: int = 3
    scalings: tuple[float, ...] = SCALINGS
    coefficients: tuple[float, ...] = COEFFICIENTS


def load_pair(pair: Sequence[str], seed: int) -> Suite:
    """The suite of two tasks, with the parts of the data moved on: see above."""
    watch = Stopwatch(lambda _: None)
    found = load_foundation(SUITE, watch)
    suite = fine_tuned_suite(
        Foundation(found.base, {name: found.tasks[name] for name in pair}), SUITE.fine_tuning, seed, watch
    )
    return held_out(suite)


def run_pair(pair: Sequence[str], seed: int, recipe: Recipe) -> dict[str, Any]:
    """All fronts of one pair: references, task arithmetic, the grid, and PWEMoE by each scalarisation."""
    suite = load_pair(pair, seed)
    measure = partial(suite.measure, samples=recipe.samples)
    grid = simplex_grid(len(pair), recipe.preferences)
    watch = Stopwatch(partial(print, flush=True))
    with watch.stage("references"):
        fronts = [base_front(suite, measure=measure), individual_front(suite, measure=measure, progress=False)]
    with watch.stage("task arithmetic"):
        scaling = best_scaling(suite, recipe)
        fronts.append(task_arithmetic_front(suite, grid, scaling, measure=measure, progress=False))
    with watch.stage("coefficient grid"):
        fronts.append(coefficient_grid_front(suite, recipe.coefficients, measure=measure, progress=False))
    training = {}
    for name in ("ls", "epo"):
        model, training[name] = trained(suite, name, seed, scaling / len(pair), recipe)
        with watch.stage(f"front of {name}"):
            fronts.append(evaluate(model, measure, grid, label=f"pwemoe-{name}", progress=False))
    return {
        "pair": list(pair),
        "seed": seed,
        "recipe": asdict(recipe),
        "scaling": scaling,
        "training": training,
        "seconds": watch.seconds,
        "environment": collect(),
        "fronts": [front.as_dict() for front in fronts],
    }


def best_scaling(suite: Suite, recipe: Recipe) -> float:
    """Choose task arithmetic's scaling on the texts that routers are trained on."""

    def losses(model: torch.nn.Module) -> Mapping[str, float]:
        return mean_losses(model, suite.batches(part="train", samples=recipe.choosing_samples), suite.loss)

    preferences = simplex_grid(len(suite.tasks), recipe.coarse_preferences)
    return search_scaling(suite, preferences, recipe.scalings, losses=losses, progress=False).best["scaling"]


def trained(
    suite: Suite, scalarization: str, seed: int, init_lambda: float, recipe: Recipe
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Train a PWEMoE; return it with what its training took and how often EPO fell back."""
    torch.manual_seed(seed)  # of the routers' initial values
    model = wemoe.upcycle(
        suite.base,
        suite.experts,
        method="pwemoe",
        modules=recipe.modules,
        router_hidden_layers=recipe.router_hidden_layers,
        init_lambda=init_lambda,
        progress=False,
    )
    start = time.perf_counter()
    done = train(
        model,
        suite.labelled_streams(recipe.batch_size, seed),
        suite.loss,
        scalarization=scalarization,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        seed=seed,
        progress=False,
    )
    seconds = time.perf_counter() - start
    print(f"{scalarization}: {recipe.steps} steps in {seconds:.0f} s", flush=True)
    return model, {"seconds": seconds, "fallbacks": dict(done.fallbacks)}


def run(folder: Path, recipe: Recipe, reverse: bool, seeds: Sequence[int]) -> None:
    """Make every result that is not there, seed by seed; a second process may come from the other end."""
    todo = list(itertools.product(seeds, PAIRS))
    for seed, pair in reversed(todo) if reverse else todo:
        path = folder / f"{'-'.join(pair)}-seed{seed}.json"
        if is_done(path, recipe):
            continue
        print(f"{'+'.join(pair)}, seed {seed}", flush=True)
        write_text(path, json.dumps(run_pair(pair, seed, recipe), indent=1) + "\n")


def is_done(path: Path, recipe: Recipe) -> bool:
    """Whether a result is there, of the same recipe."""
    same = json.loads(json.dumps(asdict(recipe)))
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["recipe"] == same


def gaps(folder: Path, seed: int = 0) -> None:
    """Write, for all pairs, the mean accuracy of the two experts less that of static merges, in points.

    The merges are the simple average, and task arithmetic with the best of five coefficients. All accuracies are on
    validation texts.
    """
    watch = Stopwatch(lambda _: None)
    whole = fine_tuned_suite(load_foundation(SUITE, watch), SUITE.fine_tuning, seed, watch)
    own = {name: whole.score(whole.experts[name], [name], "validation")[name] for name in whole.tasks}
    found = {}
    for pair in itertools.combinations(whole.tasks, 2):
        suite = whole.only(pair)
        merges = {value: wemoe.task_arithmetic(suite.base, suite.experts, scaling=value) for value in MERGES}
        scores = {value: fmean(suite.score(merge, part="validation").values()) for value, merge in merges.items()}
        experts = fmean(own[name] for name in pair)
        found["-".join(pair)] = {
            "average": 100 * (experts - scores[0.5]),
            "best": 100 * (experts - max(scores.values())),
        }
        print("+".join(pair), found["-".join(pair)], flush=True)
    write_text(folder / f"gaps-seed{seed}.json", json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("gaps", "run", "summary"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reverse", action="store_true", help="begin with the last seed and pair")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    given = parser.parse_args()
    folder, recipe = check_writable(given.folder), Recipe()
    if given.command == "gaps":
        gaps(folder)
    elif given.command == "run":
        run(folder, recipe, given.reverse, given.seeds)
    else:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-seed*.json"))]
        write_summary(folder, [found for found in results if "fronts" in found])


if __name__ == "__main__":
    main()
