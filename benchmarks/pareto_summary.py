"""What the results of `pareto_pairs.py` say together: paired differences of hypervolumes, with bootstrap intervals.

Losses are in shares of the pre-trained model's of the task. Their hypervolume is up to the worst that experts and
pre-trained model have in each task; beside it up to the pre-trained model, a box of volume 1. Some experts lose more
than that, surer as they are of what they get wrong. Accuracies count from 0, and from the pre-trained model. An
interval is of 95 %, over 10,000 draws: as many pairs as there are, and of each drawn pair as many seeds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from wemoe.files import write_text
from wemoe.pareto.fronts import Front
from wemoe.pareto.metrics import controllability, hypervolume, non_uniformity

OURS = ("pwemoe-ls", "pwemoe-epo")
OTHERS = ("task arithmetic", "coefficient grid")
MEASURES = {
    "losses": "validation losses, up to the worst of experts and pre-trained model",
    "losses from the base": "validation losses, up to the pre-trained model's",
    "accuracies": "test accuracies, from 0",
    "accuracies from the base": "test accuracies, from the pre-trained model's",
}
DRAWS = 10_000


def hypervolumes(fronts: Mapping[str, Front]) -> dict[str, dict[str, float]]:
    """Hypervolumes by measure and front; `fronts` has the references too."""
    base, experts = fronts["pre-trained"], fronts["individual models"]
    unit = base.losses[0]
    worst = torch.cat([base.losses, experts.losses]).amax(dim=0) / unit
    compared = {name: fronts[name] for name in (*OURS, *OTHERS)}
    ones, zeros = torch.ones_like(unit), torch.zeros_like(unit)

    def of(measure: Callable[[Front], float]) -> dict[str, float]:
        return {name: measure(front) for name, front in compared.items()}

    return {
        "losses": of(lambda front: hypervolume(front.losses / unit, worst, maximise=False)),
        "losses from the base": of(lambda front: hypervolume(front.losses / unit, ones, maximise=False)),
        "accuracies": of(lambda front: hypervolume(front.accuracies, zeros, maximise=True)),
        "accuracies from the base": of(lambda front: hypervolume(front.accuracies, base.accuracies[0], maximise=True)),
    }


def row(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of one pair and seed."""
    fronts = {found["label"]: Front.from_dict(found) for found in result["fronts"]}
    return {
        "pair": "+".join(result["pair"]),
        "seed": result["seed"],
        "gaps": static_gaps(fronts, result["recipe"]["coefficients"]),
        "scaling": result["scaling"],
        "hypervolumes": hypervolumes(fronts),
        "control": {name: control(fronts[name]) for name in OURS},
        "equal weights": {name: 100 * middle(fronts[name]) for name in (*OURS, "task arithmetic")},
        "non-uniformity": {name: off_the_rays(fronts[name]) for name in (*OURS, "task arithmetic")},
        "training seconds": {name: result["training"][name.removeprefix("pwemoe-")]["seconds"] for name in OURS},
        "fallbacks": result["training"]["epo"]["fallbacks"],
    }


def middle(front: Front) -> float:
    """Mean accuracy at the preference that is nearest to equal weights."""
    distances = (front.preferences - 1 / len(front.tasks)).norm(dim=1)
    return front.accuracies[distances.argmin()].mean().item()


def static_gaps(fronts: Mapping[str, Front], coefficients: Sequence[float]) -> dict[str, float]:
    """Mean test accuracy of the experts less that of static merges, in points.

    They are the simple average, and the best of three: it, task arithmetic at equal weights, and the coefficients of
    least mean validation loss.
    """
    experts = fronts["individual models"].accuracies.diagonal().mean().item()
    grid = fronts["coefficient grid"]
    places = list(itertools.product(coefficients, repeat=len(grid.tasks)))
    average = grid.accuracies[places.index((1 / len(grid.tasks),) * len(grid.tasks))].mean().item()
    least = grid.accuracies[grid.losses.mean(dim=1).argmin()].mean().item()
    best = max(middle(fronts["task arithmetic"]), least, average)
    return {"average": 100 * (experts - average), "best": 100 * (experts - best)}


def control(front: Front) -> dict[str, float]:
    """Spearman's correlation of preference with negated validation loss, and with test accuracy; means over tasks."""
    preferences = front.preferences
    return {
        "losses": fmean(controllability(preferences, -front.losses)),
        "accuracies": fmean(controllability(preferences, front.accuracies)),
    }


def off_the_rays(front: Front) -> float:
    """Mean non-uniformity of r * validation loss over the rays without a zero."""
    pairs = zip(front.losses, front.preferences, strict=True)
    return fmean(non_uniformity(losses, ray) for losses, ray in pairs if ray.min() > 0)


def interval(differences: Mapping[str, Sequence[float]], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean of differences, by pair: pairs are drawn, and seeds within them."""
    generator = np.random.default_rng(seed)
    by_pair = [np.asarray(numbers) for numbers in differences.values()]
    drawn = generator.integers(len(by_pair), size=(draws, len(by_pair)))
    means = np.zeros(draws)
    for slot in drawn.T:  # [draws], which pair is drawn
        of_pairs = [
            numbers[generator.integers(len(numbers), size=(draws, len(numbers)))].mean(axis=1) for numbers in by_pair
        ]
        means += np.choose(slot, of_pairs) / len(by_pair)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All rows, and over them the paired differences of ours from the others."""
    rows = [row(result) for result in results]
    compared = {}
    for measure in MEASURES:
        for ours in OURS:
            for other in OTHERS:
                differences: dict[str, list[float]] = {}
                for found in rows:
                    volumes = found["hypervolumes"][measure]
                    differences.setdefault(found["pair"], []).append(volumes[ours] - volumes[other])
                low, high = interval(differences)
                flat = [value for numbers in differences.values() for value in numbers]
                compared[f"{measure}: {ours} - {other}"] = {
                    "mean": fmean(flat),
                    "interval": [low, high],
                    "above 0": sum(value > 0 for value in flat),
                    "of": len(flat),
                }
    return {
        "recipe": results[0]["recipe"],
        "environment": results[0]["environment"],
        "differences": compared,
        "control": {
            name: {kind: fmean(found["control"][name][kind] for found in rows) for kind in ("losses", "accuracies")}
            for name in OURS
        },
        "longest training": {name: max(found["training seconds"][name] for found in rows) for name in OURS},
        "rows": rows,
    }


def write_summary(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write `summary.json` and `summary.md`."""
    summary = summarise(results)
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "summary.md", markdown(summary))


def markdown(summary: Mapping[str, Any]) -> str:
    """Lay the summary out as a Markdown document."""
    return "\n".join([*_differences(summary), "", *_steering(summary), "", *_rows(summary), ""])


def _differences(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        "| hypervolume of | ours - other | mean difference | 95 % interval | above 0 |",
        "|---|---|---:|---:|---:|",
    ]
    for name, found in summary["differences"].items():
        measure, _, pair = name.partition(": ")
        low, high = found["interval"]
        share = f"{found['above 0']} of {found['of']}"
        lines.append(f"| {MEASURES[measure]} | {pair} | {found['mean']:+.4f} | {low:+.4f} to {high:+.4f} | {share} |")
    return lines


def _steering(summary: Mapping[str, Any]) -> list[str]:
    lines = ["| | Spearman, loss | Spearman, accuracy | longest training, s |", "|---|---:|---:|---:|"]
    for name, found in summary["control"].items():
        seconds = summary["longest training"][name]
        lines.append(f"| {name} | {found['losses']:.3f} | {found['accuracies']:.3f} | {seconds:.0f} |")
    return lines


def _rows(summary: Mapping[str, Any]) -> list[str]:
    names = (*OURS, *OTHERS)
    lines = [
        "| pair | seed | gap to the average, points | to the best | scaling | "
        + " | ".join(f"{name}, losses" for name in names)
        + " | "
        + " | ".join(f"{name}, accuracies" for name in names)
        + " |",
        "|---|---:|---:|---:|---:|" + "---:|" * (2 * len(names)),
    ]
    for found in summary["rows"]:
        volumes = [found["hypervolumes"][measure][name] for measure in ("losses", "accuracies") for name in names]
        numbers = " | ".join(f"{volume:.4f}" for volume in volumes)
        average, best = found["gaps"]["average"], found["gaps"]["best"]
        lines.append(
            f"| {found['pair']} | {found['seed']} | {average:.1f} | {best:.1f} | {found['scaling']:g} | {numbers} |"
        )
    return lines
