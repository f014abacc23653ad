"""The quick start: six fine-tuned experts of one real model, merged by every method and compared.

MiniLM is fine-tuned on each task of the text pack (once: experts are cached); the experts are merged statically and
by WEMoE, whose routers are adapted on unlabeled texts; everything is scored on test texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import typer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wemoe import report
from wemoe.built_in import Foundation
from wemoe.comparison.making import Made, Workshop
from wemoe.comparison.rows import ROWS, Row
from wemoe.comparison.running import build, mean, score, summary
from wemoe.data import minilm, text6
from wemoe.data.batches import tokenize_task
from wemoe.expert_answers import ExpertAnswers
from wemoe.files import check_writable, write_json
from wemoe.heads import load_heads
from wemoe.info import collect
from wemoe.inspection import RoutingSummary, record_routing, summarise_routing
from wemoe.loading import from_pretrained
from wemoe.routed_classes import RoutedModule
from wemoe.routing_plots import plot_routing
from wemoe.stopwatch import Stopwatch
from wemoe.suite_config import FineTuning
from wemoe.suites import Scores, Suite, fine_tuned_suite

ADAPTED = {
    "wemoe_depth0": ("wemoe_depth0_match", 1e-2),
    "wemoe": ("wemoe_match", 3e-3),
    "wemoe_entropy": ("wemoe_entropy", 1e-4),
}
"""The adapted methods: the rows of a comparison that they are, and their learning rates for as many steps as here."""


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the results.

    The entropy objective has its published learning rate, but as few steps as the others: the published 1,000 would
    take longer than all the rest.
    """

    max_length: int = 40
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    scalings: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    steps: int = 100

    def with_steps(self, steps: int | None) -> Recipe:
        """The recipe with another number of steps of adaptation, unless that is None.

        Raises:
            ValueError: it is below 1.
        """
        if steps is None:
            return self
        if steps < 1:
            raise ValueError(f"steps must be at least 1; found {steps}")
        return replace(self, steps=steps)

    def rows(self) -> dict[str, Row]:
        """The methods, as rows of a comparison."""
        rows = {name: ROWS[name] for name in ("pretrained", "individual", "average")}
        rows["task_arithmetic"] = ROWS["task_arithmetic"].with_options({"scaling": list(self.scalings)})
        for name, (row, learning_rate) in ADAPTED.items():
            rows[name] = ROWS[row].with_options({"steps": self.steps, "learning_rate": learning_rate})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """What `results.json` keeps of the recipe."""
        rows = self.rows()
        return {
            "max_length": self.max_length,
            "fine_tuning": asdict(self.fine_tuning),
            "scalings": list(self.scalings),
            "routings": {name: dict(rows[name].options) for name in ADAPTED},
        }


def run(
    seed: int = 0,
    steps: int | None = None,
    output: str | os.PathLike[str] = "outputs/quickstart",
    *,
    recipe: Recipe | None = None,
    tasks: Mapping[str, text6.TextTask] | None = None,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> dict[str, Any]:
    """Run the quick start and write `results.json`, two charts and, in `model/`, the adapted model with its heads.

    Args:
        seed: of fine-tuning and adaptation; on a CPU, one seed gives bit-equal results.
        steps: of adaptation; by default the recipe's.
        output: folder of the results.
        recipe: everything else that decides the results.
        tasks: by default the six of the text pack.
        base: a model with its tokenizer; by default MiniLM, downloaded at first use.

    Returns:
        What `results.json` holds.

    Raises:
        OSError: the output folder can't be written (checked before any work), or MiniLM can't be had.
        ValueError: the text pack is damaged, or `steps` is below 1.
    """
    folder = check_writable(output)
    recipe = (recipe or Recipe()).with_steps(steps)
    watch = Stopwatch(typer.echo)
    with watch.stage("load texts and base model"):
        model, tokenizer = base or minilm.load()
        tokenized = {
            name: tokenize_task(task, tokenizer, recipe.max_length) for name, task in (tasks or text6.load()).items()
        }
    suite = fine_tuned_suite(Foundation(model, tokenized), recipe.fine_tuning, seed, watch)
    results: dict[str, Any] = {"tasks": list(suite.tasks), "methods": {}, "seed": seed, "adaptation": {}}
    merged, routing = _run_methods(suite, recipe.rows(), results, watch)
    with watch.stage("save and reload"):
        _save(folder, suite, merged)
    results |= {
        "gap_closed": report.gap_closed(results["methods"]),
        "timings": watch.seconds,
        "environment": collect(),
        "recipe": recipe.as_dict(),
        "routing": routing.as_dict(),
    }
    _report(folder, results, routing)
    return results


def _run_methods(
    suite: Suite, rows: Mapping[str, Row], results: dict[str, Any], watch: Stopwatch
) -> tuple[RoutedModule, RoutingSummary]:
    """Make and score every method, and note its results; return the WEMoE with its routing weights."""
    shop = Workshop(suite, results["seed"], ExpertAnswers(suite))
    for name, row in rows.items():
        with watch.stage(name):
            built = build(row, shop)
            if name == "wemoe":
                merged = cast("RoutedModule", next(iter(built.made.models.values())))
                scores, routing = _score_with_routing(suite, built.made)
            else:
                scores = score(suite, built.made)
        results["methods"][name] = {"accuracy": scores, "average": mean(scores)}
        if built.search:
            results[f"{name}_validation"] = {str(point["scaling"]): point["validation"] for point in built.search}
        if built.made.adaptation is not None:
            results["adaptation"][name] = summary(built.made.adaptation)
    return merged, routing


def _score_with_routing(suite: Suite, made: Made) -> tuple[Scores, RoutingSummary]:
    """Score a routed model, and keep its routing weights on the test texts."""
    scores: Scores = {}
    records: dict[str, dict[str, list[Tensor]]] = {}
    for task, model in made.models.items():
        with record_routing(model) as records[task]:
            scores |= suite.score(model, [task])
    return scores, summarise_routing(records, list(suite.experts))


def _save(folder: Path, suite: Suite, model: RoutedModule) -> None:
    """Save the model with its heads, and check that what was saved gives the same logits, bit for bit.

    Raises:
        RuntimeError: it does not.
    """
    model.save_pretrained(folder / "model", heads=suite.heads)
    heads = {task: cast("nn.Linear", head) for task, head in load_heads(folder / "model").items()}
    reloaded = replace(suite, heads=heads)
    again = from_pretrained(folder / "model")
    for name, batches in suite.inputs("test", 8, 0).items():
        batch = next(iter(batches))
        with torch.inference_mode():
            if not torch.equal(suite.predict(model, batch, name), reloaded.predict(again, batch, name)):
                raise RuntimeError(f"the reloaded model's logits must equal the saved one's; task {name!r} differs")


def _report(folder: Path, results: dict[str, Any], routing: RoutingSummary) -> None:
    """Write and print the results; the plots first, so that `results.json` tells that all is there."""
    report.plot_accuracy(results, folder / "accuracy.png")
    plot_routing(routing, folder / "routing.png", data="text")
    write_json(folder / "results.json", results)
    typer.echo("\n" + report.format_table(results))
    typer.echo(f"\nresults.json, accuracy.png, routing.png and model/ are in {folder}")
