"""A front from a configuration to a folder: a model steered by a preference, trained, measured, and its baselines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wemoe.configured_fronts import baseline_fronts, check_installed, measured_front
from wemoe.configured_merge import Config, fitting_sources, settings_of
from wemoe.device_maps import check_device
from wemoe.files import check_writable
from wemoe.info import collect
from wemoe.merge_config import FrontConfig
from wemoe.merged_card import without_paths
from wemoe.merged_folders import check_apart
from wemoe.pareto.figures import Figures, figures_of, table
from wemoe.pareto.folders import MODEL, write_front_folder
from wemoe.pareto.fronts import Front
from wemoe.pareto.held_out import held_out
from wemoe.pareto.steps import Training
from wemoe.pareto.training import train
from wemoe.routed_classes import RoutedModule
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite, load_suite
from wemoe.upcycling import upcycle

TRAINING = "training"  # a stage


@dataclass(frozen=True)
class ParetoRun:
    """What `pareto` made.

    Attributes:
        folder: where it was written.
        fronts: that of the model first, then its baselines, the experts and the base.
        summary: what `front.json` tells beside the fronts: figures of each, and what training took.
    """

    folder: Path
    fronts: tuple[Front, ...]
    summary: dict[str, Any]


def pareto(
    config: Config,
    output: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    resume: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> ParetoRun:
    """Train a model that a preference steers, measure its front and baselines, and write a folder, whole or not at all.

    The folder holds `model/`, which `wemoe.from_pretrained` reads, `front.json`, `front.csv` and `front.png`. Until it
    is written, training is kept in a file beside it, `OUTPUT.training-*.pt`.

    Args:
        config: a YAML file, what such a file holds, or a configuration that was read; its method is `pwemoe`.
        output: folder of the results; what is there of earlier ones is replaced.
        device: where to compute; by default the CPU.
        resume: go on with the training that an interrupted run of the same configuration kept, if there is one.
        progress: whether to show progress bars.
        tell: is given, as text, the preflight's report, what is being done, and the table of figures.

    Returns:
        Where the results are, the fronts and their figures.

    Raises:
        FileNotFoundError, ImportError: a model, an adapter or a file of data cannot be opened.
        OSError: the folder cannot be written; checked before any work.
        ValueError: the configuration is wrong or its method makes no front, there is no such device, base and experts
            do not fit (all that does not is listed), or a file is damaged.
    """
    settings = front_settings(config)
    place = check_device(device)
    check_installed(settings)
    tell = tell or (lambda _: None)
    target = Path(output)
    check_writable(target if target.exists() else target.absolute().parent)
    watch = Stopwatch(tell)
    suite = None if settings.suite is None else load_suite(settings, device=place, watch=watch)
    with fitting_sources(settings, suite, device, tell) as sources:
        check_apart(target / MODEL, sources)
        loaded = suite or load_suite(settings, device=place, watch=watch)
        suite = loaded if settings.parameters.train_on == "train" else held_out(loaded)
        model = _upcycled(settings, suite, progress)
        kept = kept_training(target, settings)
        if not resume:
            kept.unlink(missing_ok=True)
        training = _train(settings, suite, model, kept, watch, progress)
        fronts = (
            measured_front(settings, suite, model, watch, progress),
            *baseline_fronts(settings, suite, loaded, watch, progress),
        )
        figures = {front.label: figures_of(front, reference_losses(fronts)) for front in fronts}
        summary = _summary(settings, fronts, figures, training, watch)
        recipe, metrics = settings.recipe(), _metrics(figures[fronts[0].label])
        write_front_folder(target, model, suite.heads, sources.base.folder, fronts, summary, recipe, metrics)
    kept.unlink(missing_ok=True)
    tell(f"\n{table(figures)}\n\n{_told(settings, training, watch)}")
    return ParetoRun(target, fronts, summary)


def front_settings(config: Config) -> FrontConfig:
    """Return the checked configuration of a front.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something in it is wrong, or its method makes no front.
    """
    settings = settings_of(config)
    if not isinstance(settings, FrontConfig):
        raise ValueError(f"merge_method: must be pwemoe, which makes a front; found {settings.merge_method!r}")
    return settings


def kept_training(output: Path, config: FrontConfig) -> Path:
    """Return where training is kept until a folder is written: beside it, in a file of its own for what is trained."""
    trained = {key: value for key, value in config.recipe().items() if key != "pareto"}
    digest = hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()
    return output.absolute().with_name(f"{output.absolute().name}.training-{digest[:8]}.pt")


def _upcycled(config: FrontConfig, suite: Suite, progress: bool) -> RoutedModule:
    """Make the model of a suite; its routers' initial values are decided by the seed."""
    parameters = config.parameters
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return upcycle(
            suite.base,
            suite.experts,
            method="pwemoe",
            modules=parameters.modules,
            router_hidden_layers=parameters.router_hidden_layers,
            init_lambda=parameters.init_lambda,
            progress=progress,
        )


def _train(
    config: FrontConfig, suite: Suite, model: RoutedModule, kept: Path, watch: Stopwatch, progress: bool
) -> Training:
    chosen = config.parameters.model_dump(include={"scalarization", "learning_rate", "final_rate", "concentration"})
    loaders = suite.labelled_streams(config.parameters.batch_size, config.seed)
    options = chosen | {"steps": config.adaptation_steps, "seed": config.seed, "progress": progress}
    with watch.stage(TRAINING):
        return train(model, loaders, suite.loss, checkpoint=kept, **options)


def reference_losses(fronts: tuple[Front, ...]) -> Tensor:
    """Return the losses [T] up to which hypervolume is counted: those of the base, the last of the fronts."""
    return fronts[-1].losses[0]


def _summary(
    config: FrontConfig,
    fronts: tuple[Front, ...],
    figures: Mapping[str, Figures],
    training: Training,
    watch: Stopwatch,
) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "configuration": without_paths(config.recipe()),
        "training": {"steps": len(training.history), "fallbacks": dict(training.fallbacks)},
        "reference_losses": dict(zip(fronts[0].tasks, reference_losses(fronts).tolist(), strict=True)),
        "figures": {label: asdict(found) for label, found in figures.items()},
        "seconds": dict(watch.seconds),
        "environment": collect(),
    }


def _metrics(figures: Figures) -> dict[str, float]:
    """Return what the model card tells of the front."""
    return {f"front: {name.replace('_', ' ')}": value for name, value in asdict(figures).items() if value is not None}


def _told(config: FrontConfig, training: Training, watch: Stopwatch) -> str:
    text = f"{len(training.history)} steps; training took {watch.seconds[TRAINING]:.0f} s here"
    if config.parameters.scalarization == "ls":
        return text
    reasons = ", ".join(f"{reason}: {count}" for reason, count in training.fallbacks.items())
    return f"{text}; steps in which EPO fell back on simpler weights: {reasons or 'none'}"
