"""A merge from a configuration to a folder: sources, preflight, method, files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from wemoe.configured_models import make_model, rule_of
from wemoe.device_maps import check_device
from wemoe.files import check_writable
from wemoe.merge_config import MergeConfig, check_method_named, parse_config, read_config
from wemoe.merged_folders import write_merged
from wemoe.merging.rules import Sources, open_sources
from wemoe.method_parameters import Linear, Static
from wemoe.preflight import Report, preflight
from wemoe.routed_classes import RoutedModule
from wemoe.suites import Suite, load_suite
from wemoe.sweeping import Sweep, sweep
from wemoe.whole_models import write_plain, write_routed

Config = MergeConfig | Mapping[str, Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        folder: where it was written.
        chosen: by parameter that was swept, the value that was best on validation data.
        accuracy: by task with test data, the share of right answers, where the merge read data anyway.
    """

    folder: Path
    chosen: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)


def merge(
    config: Config,
    output: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Merged:
    """Merge models as a configuration says, and write the result to a folder, whole or not at all.

    A static method reads the models one tensor at a time. Methods that read data, and sweeps, load the base and the
    experts whole. A plain model is written as a Hugging Face folder, a routed one as `wemoe.from_pretrained` reads it.

    Args:
        config: a YAML file, what such a file holds, or a configuration that was read.
        output: folder of the result; what is there of an earlier one is replaced.
        device: where to compute; by default the CPU.
        progress: whether to show progress bars.
        tell: is given the preflight's report and what a sweep chose, as text.

    Returns:
        Where the result is, and what was measured on the way.

    Raises:
        FileNotFoundError, ImportError: a model, an adapter or a file of data cannot be opened.
        OSError: the folder cannot be written; checked before any work.
        ValueError: the configuration is wrong or its method makes a front, there is no such device, base and experts do
            not fit (all that does not is listed), a tensor is not finite, or a file is damaged.
    """
    settings = settings_of(config)
    _check_one_model(settings)
    place = check_device(device)
    tell = tell or (lambda _: None)
    check_writable(Path(output).absolute().parent)
    for note in settings.notes:
        tell(f"note: {note}")
    with ExitStack() as stack:
        suite = load_suite(settings, device=place) if settings.suite is not None else None
        sources = stack.enter_context(fitting_sources(settings, suite, device, tell))
        if suite is None and (type(settings.parameters).reads_data or settings.sweep):
            suite = load_suite(settings, device=place)
        return _write(settings, sources, suite, Path(output), progress, tell)


def check(config: Config, device: str | torch.device | None = None) -> Report | None:
    """Look at the models of a configuration and write nothing; None where a built-in suite would have to make them.

    Raises:
        FileNotFoundError, ImportError: a model cannot be opened.
        ValueError: the configuration is wrong or its method makes a front, there is no such device, or a file is
            damaged.
    """
    settings = settings_of(config)
    _check_one_model(settings)
    check_device(device)
    if settings.suite is not None:
        return None
    with _open(settings, None, device) as sources:
        return preflight(sources, dtype=_dtype(settings))


def settings_of(config: Config) -> MergeConfig:
    """Return the checked configuration of a merge.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something in it is wrong, or it names no method.
    """
    if isinstance(config, Mapping):
        return parse_config(config, to_merge=True)
    if not isinstance(config, MergeConfig):
        return read_config(config, to_merge=True)
    check_method_named(config.merge_method)
    return config


def _check_one_model(config: MergeConfig) -> None:
    """Check that the method makes one model."""
    if type(config.parameters).has_front:
        raise ValueError(
            f"merge_method: {config.merge_method} makes a model for every preference, which is trained on labels; "
            "run `wemoe pareto CONFIG --output DIR`, and `wemoe unload DIR/model --preference ...` for one of them"
        )


@contextmanager
def fitting_sources(
    config: MergeConfig, suite: Suite | None, device: str | torch.device | None, tell: Callable[[str], None]
) -> Iterator[Sources]:
    """Open the base and the experts of a configuration, or of a built-in suite, and tell what preflight finds.

    Raises:
        FileNotFoundError, ImportError: a model cannot be opened.
        ValueError: base and experts do not fit (all that does not is listed), or a file is damaged.
    """
    with _open(config, suite, device) as sources:
        report = preflight(sources, dtype=_dtype(config))
        tell(str(report))
        report.raise_if_broken()
        yield sources


@contextmanager
def _open(config: MergeConfig, suite: Suite | None, device: str | torch.device | None) -> Iterator[Sources]:
    if suite is not None:
        base: Any = suite.base
        experts: Any = suite.experts
    elif isinstance(config.parameters, Linear):
        experts = config.averaged
        base = config.base_model or config.models[0].model  # gives the configuration, as in mergekit
    else:
        base, experts = config.base_model, config.experts
    with open_sources(base, experts, device) as sources:
        yield sources


def _write(
    config: MergeConfig,
    sources: Sources,
    suite: Suite | None,
    output: Path,
    progress: bool,
    tell: Callable[[str], None],
) -> Merged:
    model: nn.Module | None = None
    chosen: dict[str, float] = {}
    metrics: dict[str, Any] = {}
    if suite is not None and config.sweep:
        found = _search(config, suite, progress, tell)
        model, chosen, config = found.model, found.best, config.at(found.best)
        metrics["validation accuracy"] = max(score for _, score in found.scores)
    elif suite is not None and type(config.parameters).reads_data:
        model = make_model(config, suite, progress)
    accuracy = score_on_test_data(suite, model) if suite is not None and model is not None else {}
    if accuracy:
        metrics["test accuracy"] = accuracy
    told: dict[str, Any] = {"recipe": config.recipe(), "metrics": metrics}
    if suite is None or model is None or isinstance(config.parameters, Static):
        rule = rule_of(config)(sources)
        write_merged(output, sources, rule, dtype=_dtype(config), progress=progress, **told)
    elif isinstance(model, RoutedModule):
        write_routed(output, model, suite.heads, sources.base.folder, **told)
    else:
        write_plain(output, cast("PreTrainedModel", model), suite.heads, sources, dtype=_dtype(config), **told)
    return Merged(output, chosen, accuracy)


def _search(config: MergeConfig, suite: Suite, progress: bool, tell: Callable[[str], None]) -> Sweep[nn.Module]:
    """Choose parameters by their mean accuracy on validation data."""

    def make(**point: float) -> nn.Module:
        return make_model(config.at(point), suite, progress=False)

    def score(model: nn.Module) -> float:
        return mean(suite.score(model, part="validation").values())

    found = sweep(make, config.sweep, score, progress)
    for point, accuracy in found.scores:
        values = ", ".join(f"{name} {value:g}" for name, value in point.items())
        tell(f"{values}: {accuracy:.2%} on validation data{', the best' if point == found.best else ''}")
    return found


def score_on_test_data(suite: Suite, model: nn.Module) -> dict[str, float]:
    """Score a model on the tasks that have test data."""
    tasks = [name for name, task in suite.tasks.items() if task.test is not None]
    return suite.score(model, tasks, part="test") if tasks else {}


def _dtype(config: MergeConfig) -> torch.dtype | None:
    name = config.out_dtype or config.dtype
    return None if name is None else getattr(torch, name)
