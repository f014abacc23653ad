"""The quick start: six fine-tuned experts of one real model, merged by every method and compared.

MiniLM is fine-tuned on each task of the text pack (once: experts are cached); the experts are merged statically and
by WEMoE, whose routers are adapted on unlabeled texts; everything is scored on test texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import typer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wemoe import report
from wemoe.adaptation import Adaptation
from wemoe.comparison import Bench, Routing, score_routed, score_static
from wemoe.data import minilm, text6
from wemoe.data.batches import TokenizedTask, sorted_batches, tokenize_task
from wemoe.data.cache import cache_folder
from wemoe.experts import FineTuning, cached_expert
from wemoe.files import check_writable, write_text
from wemoe.heads import load_heads
from wemoe.info import collect
from wemoe.inspection import RoutingSummary
from wemoe.loading import from_pretrained
from wemoe.routed_classes import RoutedModule
from wemoe.stopwatch import Stopwatch


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the results.

    The entropy objective has its published learning rate, but as few steps as the others: the published 1,000 would
    take longer than all the rest.
    """

    max_length: int = 40
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    scalings: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    routings: Mapping[str, Routing] = field(
        default_factory=lambda: {
            "wemoe_depth0": Routing(0, "match", learning_rate=1e-2),
            "wemoe": Routing(2, "match", learning_rate=3e-3),
            "wemoe_entropy": Routing(2, "entropy", learning_rate=1e-4),
        }
    )

    def with_steps(self, steps: int | None) -> Recipe:
        """The recipe with another number of steps of adaptation, unless that is None.

        Raises:
            ValueError: it is below 1.
        """
        if steps is None:
            return self
        if steps < 1:
            raise ValueError(f"steps must be at least 1; found {steps}")
        return replace(self, routings={name: replace(how, steps=steps) for name, how in self.routings.items()})


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
    bench = _prepare(model, tokenized, recipe, seed, watch)
    static, validation = score_static(bench, recipe.scalings, watch)
    adapted = score_routed(bench, recipe.routings, seed, watch)
    with watch.stage("save and reload"):
        _save(folder, bench, adapted["wemoe"].model)
    methods = {
        name: {"accuracy": scores, "average": sum(scores.values()) / len(scores)}
        for name, scores in (static | {name: result.scores for name, result in adapted.items()}).items()
    }
    results = {
        "tasks": list(bench.tasks),
        "methods": methods,
        "gap_closed": report.gap_closed(methods),
        "seed": seed,
        "timings": watch.seconds,
        "environment": collect(),
        "recipe": asdict(recipe),
        "task_arithmetic_validation": validation,
        "routing": adapted["wemoe"].routing.as_dict(),
        "adaptation": {name: _summary(result.adaptation) for name, result in adapted.items()},
    }
    _report(folder, results, adapted["wemoe"].routing)
    return results


def _prepare(
    base: PreTrainedModel, tasks: dict[str, TokenizedTask], recipe: Recipe, seed: int, watch: Stopwatch
) -> Bench:
    """Make the experts or take them from the cache."""
    experts = {}
    for name, task in tasks.items():
        with watch.stage(f"expert: {name}"):
            experts[name] = cached_expert(cache_folder() / "experts", name, base, task, recipe.fine_tuning, seed)
    models, heads = ({name: getattr(expert, part) for name, expert in experts.items()} for part in ("model", "head"))
    return Bench(base, models, heads, tasks)


def _save(folder: Path, bench: Bench, model: RoutedModule) -> None:
    """Save the model with its heads, and check that what was saved gives the same logits, bit for bit.

    Raises:
        RuntimeError: it does not.
    """
    model.save_pretrained(folder / "model", heads=bench.heads)
    heads = {task: cast("nn.Linear", head) for task, head in load_heads(folder / "model").items()}
    reloaded = replace(bench, heads=heads)
    again = from_pretrained(folder / "model")
    for name, task in bench.tasks.items():
        batch = next(sorted_batches(task.test.samples, 8))
        with torch.inference_mode():
            if not torch.equal(bench.predict(model, batch, name), reloaded.predict(again, batch, name)):
                raise RuntimeError(f"the reloaded model's logits must equal the saved one's; task {name!r} differs")


def _summary(adaptation: Adaptation) -> dict[str, Any]:
    history = adaptation.history
    return {
        "loss": [record["loss"] for record in history],
        "entropy": {task: [record["entropy"][task] for record in history] for task in history[0]["entropy"]},
        "collapsed": list(adaptation.collapsed),
    }


def _report(folder: Path, results: dict[str, Any], routing: RoutingSummary) -> None:
    """Write and print the results; the plots first, so that `results.json` tells that all is there."""
    report.plot_accuracy(results, folder / "accuracy.png")
    report.plot_routing(routing, folder / "routing.png", data="text")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    typer.echo("\n" + report.format_table(results))
    typer.echo(f"\nresults.json, accuracy.png, routing.png and model/ are in {folder}")
