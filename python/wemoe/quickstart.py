"""The quick start: six fine-tuned experts of one real model, merged by every method and compared.

MiniLM is fine-tuned on each task of the text pack (once: experts are cached); the experts are merged statically and
by WEMoE, whose routers are adapted on unlabeled texts; everything is scored on test texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wemoe import report
from wemoe.adaptation import Adaptation, adapt
from wemoe.data import minilm, text6
from wemoe.data.batches import Batch, ShuffledBatches, TokenizedTask, sorted_batches, tokenize_task
from wemoe.data.cache import cache_folder
from wemoe.evaluation import evaluate
from wemoe.experts import FineTuning, all_features, cached_expert, mean_features
from wemoe.files import check_writable, replacing_files, write_text
from wemoe.info import collect
from wemoe.inspection import record_routing
from wemoe.loading import from_pretrained
from wemoe.merging import average, task_arithmetic
from wemoe.routed_classes import RoutedModel
from wemoe.stopwatch import Stopwatch
from wemoe.upcycling import upcycle

HEADS = "heads.safetensors"
Scores = dict[str, float]  # accuracy by task


@dataclass(frozen=True)
class Routing:
    """How one routed model is made and adapted."""

    router_hidden_layers: int
    objective: Literal["match", "entropy"]
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides the results."""

    max_length: int = 40
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    scalings: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    init_lambda: float = 0.3
    steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: int = 16
    routings: Mapping[str, Routing] = field(
        default_factory=lambda: {
            "wemoe_depth0": Routing(0, "match", 1e-2),
            "wemoe": Routing(2, "match", 3e-3),
            "wemoe_entropy": Routing(2, "entropy", 1e-4),
        }
    )


@dataclass(frozen=True)
class Bench:
    """The models at hand, the tasks, and the frozen heads that read any of the models."""

    base: PreTrainedModel
    experts: dict[str, PreTrainedModel]
    heads: dict[str, nn.Linear]
    tasks: dict[str, TokenizedTask]

    def predict(self, model: nn.Module, batch: Batch, task: str) -> Tensor:
        """Logits [B, C] of a task's head on a model's mean features."""
        logits: Tensor = self.heads[task](mean_features(model, batch))
        return logits

    def score(self, model: nn.Module, tasks: list[str] | None = None, part: str = "test") -> Scores:
        """Accuracy of a model on one part of the tasks, all of them by default."""
        parts = {name: getattr(self.tasks[name], part) for name in tasks or self.tasks}
        return evaluate(model, {name: labelled.sorted_batches(64) for name, labelled in parts.items()}, self.predict)


def run(
    seed: int = 0,
    steps: int | None = None,
    output: str | os.PathLike[str] = "outputs/quickstart",
    *,
    recipe: Recipe | None = None,
    tasks: Mapping[str, text6.TextTask] | None = None,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> dict[str, Any]:
    """Run the quick start and write `results.json`, `accuracy.png`, `routing.png`, `heads.safetensors` and `model/`.

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
    recipe = recipe or Recipe()
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    if recipe.steps < 1:
        raise ValueError(f"steps must be at least 1; found {recipe.steps}")
    watch = Stopwatch(typer.echo)
    with watch.stage("load texts and base model"):
        model, tokenizer = base or minilm.load()
        texts = {
            name: tokenize_task(task, tokenizer, recipe.max_length) for name, task in (tasks or text6.load()).items()
        }
    bench = _prepare(model, texts, recipe, seed, watch)
    static, sweep = _score_static(bench, recipe, watch)
    adapted = _adapt_all(bench, recipe, seed, watch)
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
        "task_arithmetic_validation": sweep,
        "routing": adapted["wemoe"].routing,
        "adaptation": {name: _summary(result.adaptation) for name, result in adapted.items()},
    }
    _report(folder, results)
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


def _score_static(bench: Bench, recipe: Recipe, watch: Stopwatch) -> tuple[dict[str, Scores], dict[str, float]]:
    """Score all that is not routed; also tell task arithmetic's average validation accuracy by scaling."""
    scores: dict[str, Scores] = {}
    with watch.stage("pretrained"):
        scores["pretrained"] = bench.score(bench.base)
    with watch.stage("individual"):
        scores["individual"] = {task: bench.score(expert, [task])[task] for task, expert in bench.experts.items()}
    with watch.stage("average"):
        scores["average"] = bench.score(average(bench.base, bench.experts))
    with watch.stage("task_arithmetic"):
        sweep = {}
        for scaling in recipe.scalings:
            merged = task_arithmetic(bench.base, bench.experts, scaling)
            sweep[scaling] = sum(bench.score(merged, part="validation").values()) / len(bench.tasks)
        best = max(sweep, key=sweep.__getitem__)
        scores["task_arithmetic"] = bench.score(task_arithmetic(bench.base, bench.experts, best))
    return scores, {str(scaling): accuracy for scaling, accuracy in sweep.items()}


@dataclass(frozen=True)
class Adapted:
    """A routed model after adaptation, its scores and its mean routing weights, routing[task][layer][expert]."""

    model: RoutedModel
    adaptation: Adaptation
    scores: Scores
    routing: dict[str, list[list[float]]]


def _adapt_all(bench: Bench, recipe: Recipe, seed: int, watch: Stopwatch) -> dict[str, Adapted]:
    with watch.stage("experts' predictions on unlabeled texts"):
        answers = {name: _answers(bench, name) for name in bench.tasks}
    adapted = {}
    for name, routing in recipe.routings.items():
        with watch.stage(name):
            adapted[name] = _adapt(bench, recipe, routing, answers, seed)
    return adapted


def _answers(bench: Bench, task: str) -> Callable[[Batch], Tensor]:
    """A function from a batch to the expert's logits, computed once for all unlabeled texts of its task."""
    logits = bench.heads[task](all_features(bench.experts[task], bench.tasks[task].unlabeled))
    return lambda batch: logits[batch.rows]


def _adapt(
    bench: Bench, recipe: Recipe, routing: Routing, answers: Mapping[str, Callable[[Batch], Tensor]], seed: int
) -> Adapted:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the routers' initial values
        model = upcycle(
            bench.base,
            bench.experts,
            init_lambda=recipe.init_lambda,
            router_hidden_layers=routing.router_hidden_layers,
        )
    adaptation = adapt(
        model,
        {name: ShuffledBatches(task.unlabeled, recipe.batch_size, seed) for name, task in bench.tasks.items()},
        bench.predict,
        objective=routing.objective,
        experts=answers,
        steps=recipe.steps,
        learning_rate=routing.learning_rate,
        schedule=recipe.schedule,
        seed=seed,
    )
    scores: Scores = {}
    weights: dict[str, list[list[float]]] = {}
    for task in bench.tasks:
        with record_routing(model) as records:
            scores |= bench.score(model, [task])
        weights[task] = [torch.cat(record).mean(dim=0).tolist() for record in records.values()]
    return Adapted(model, adaptation, scores, weights)


def _save(folder: Path, bench: Bench, model: RoutedModel) -> None:
    """Save the model and the heads, and check that the saved model alone gives the same logits, bit for bit.

    Raises:
        RuntimeError: it does not.
    """
    heads = {f"{task}.{name}": value for task, head in bench.heads.items() for name, value in head.state_dict().items()}
    with replacing_files(folder, stale=(HEADS,)) as staging:
        save_file(heads, staging / HEADS)
    model.save_pretrained(folder / "model")
    reloaded = from_pretrained(folder / "model")
    for name, task in bench.tasks.items():
        batch = next(sorted_batches(task.test.texts, 8))
        with torch.inference_mode():
            if not torch.equal(bench.predict(model, batch, name), bench.predict(reloaded, batch, name)):
                raise RuntimeError(f"the reloaded model's logits must equal the saved one's; task {name!r} differs")


def _summary(adaptation: Adaptation) -> dict[str, Any]:
    history = adaptation.history
    return {
        "loss": [record["loss"] for record in history],
        "entropy": {task: [record["entropy"][task] for record in history] for task in history[0]["entropy"]},
        "collapsed": list(adaptation.collapsed),
    }


def _report(folder: Path, results: dict[str, Any]) -> None:
    """Write and print the results; the plots first, so that `results.json` tells that all is there."""
    report.plot_accuracy(results, folder / "accuracy.png")
    report.plot_routing(results, folder / "routing.png")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    typer.echo("\n" + report.format_table(results))
    typer.echo(f"\nresults.json, accuracy.png, routing.png, {HEADS} and model/ are in {folder}")
