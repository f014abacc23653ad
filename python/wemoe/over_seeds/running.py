"""Running the comparison of a suite once for each seed, and its experiments once; writing what all of it comes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wemoe.comparison.choosing import CompareSettings
from wemoe.comparison.configured import origin_of, settings_of
from wemoe.comparison.running import RESULTS as COMPARISON
from wemoe.comparison.running import compare
from wemoe.files import check_writable, write_json, write_text
from wemoe.html_report import write_report
from wemoe.info import collect
from wemoe.merge_config import MergeConfig
from wemoe.over_seeds import tables
from wemoe.over_seeds.chart import plot_summary
from wemoe.over_seeds.experiments import check_experiments, chosen_experiments
from wemoe.over_seeds.summary import summarise
from wemoe.stopwatch import Stopwatch
from wemoe.suites import Suite, load_suite

RESULTS = "evaluation.json"


def evaluate_suite(
    config: MergeConfig,
    output: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    experiments: Sequence[str] | None = None,
    resume: bool = False,
    device: str = "cpu",
    tell: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Compare all methods on a suite for each seed, and put the seeds together.

    Writes `seed-N/comparison.json` and what goes with it, the files of the experiments, `evaluation.json` (anew after
    each seed), `evaluation.md`, `evaluation.png` and `report.html`.

    Args:
        config: suite (or base, models and tasks), `methods` and `steps`; its own seed plays no part.
        output: folder of the results.
        seeds: of the experts of a built-in suite, of adaptation and of all else that is drawn.
        experiments: `unseen`, `corruptions` or both, run with the first seed; by default what the suite allows.
        resume: keep what the folder holds already of the same run.
        device: of the models.
        tell: what to do with lines that tell of the progress.

    Returns:
        What `evaluation.json` holds.

    Raises:
        ImportError: an experiment that is named needs a package that is not installed.
        OSError: the output folder can't be written, or a model or file can't be read.
        ValueError: a seed, an experiment, a row or an option is not what it must be, or the suite does not fit. All is
            told before the first comparison.
    """
    check_seeds(seeds)
    check_experiments(experiments or ())
    settings_of(config).rows()
    folder = check_writable(output)
    first, *others = (_Seeded(config.model_copy(update={"seed": seed}), folder, resume, device, tell) for seed in seeds)
    suite = first.load()
    chosen = chosen_experiments(suite, first.settings, experiments, tell)
    comparisons = [first.compare(suite)]
    results = _write(config, folder, seeds, comparisons)
    for experiment in chosen.values():
        experiment(suite, first.settings, folder, **first.shared)
    for seeded in others:
        if config.suite is not None:  # whose experts are the seed's
            del suite  # two at once would take twice the memory
            suite = seeded.load()
        comparisons.append(seeded.compare(suite))
        results = _write(config, folder, seeds, comparisons)
    plot_summary(results, folder / "evaluation.png")
    write_text(folder / "evaluation.md", tables.markdown(results))
    write_report(folder)
    return results


def check_seeds(seeds: Sequence[int]) -> None:
    """Check that there are seeds, each once.

    Raises:
        ValueError: there is none, one comes twice, or one is negative.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be distinct numbers from 0, at least one; found {list(seeds)}")


@dataclass(frozen=True)
class _Seeded:
    """The run of one seed.

    Attributes:
        config: with this seed.
        output: folder of the results of all seeds.
        resume: whether to keep what is there.
        device: of the models.
        tell: what to do with lines that tell of the progress.
    """

    config: MergeConfig
    output: Path
    resume: bool
    device: str
    tell: Callable[[str], object]

    @cached_property
    def settings(self) -> CompareSettings:
        return settings_of(self.config)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the comparison and the experiments are told beside suite, settings and output."""
        self.tell(f"seed {self.config.seed}")
        return {"watch": Stopwatch(self.tell), "origin": origin_of(self.config), "resume": self.resume}

    def load(self) -> Suite:
        return load_suite(self.config, device=self.device, watch=self.shared["watch"])

    def compare(self, suite: Suite) -> dict[str, Any]:
        return compare(suite, self.settings, self.output / folder_of(self.config.seed), **self.shared)


def folder_of(seed: int) -> str:
    """Return the name of the folder of one seed's comparison."""
    return f"seed-{seed}"


def _write(
    config: MergeConfig, folder: Path, seeds: Sequence[int], comparisons: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write and return what the seeds that are done come to."""
    done = list(seeds)[: len(comparisons)]
    results = {
        "suite": config.base_model if config.suite is None else config.suite.name,
        "seeds": done,
        "tasks": comparisons[0]["tasks"],
        "steps": comparisons[0]["steps"],
        "environment": collect(),
        "runs": {str(seed): f"{folder_of(seed)}/{COMPARISON}" for seed in done},
        "rows": summarise(comparisons),
    }
    write_json(folder / RESULTS, results)
    return results
