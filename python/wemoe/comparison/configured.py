"""A comparison from a configuration file, with its progress and its table on the terminal."""

from __future__ import annotations

import os
from typing import Any

import typer

from wemoe.comparison import tables
from wemoe.comparison.choosing import CompareSettings
from wemoe.comparison.running import compare
from wemoe.files import check_writable
from wemoe.merge_config import MergeConfig
from wemoe.stopwatch import Stopwatch
from wemoe.suites import load_suite


def run(
    config: MergeConfig, output: str | os.PathLike[str], resume: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Load the suite of a configuration, compare the methods on it, and print the table.

    Args:
        config: suite (or base, models and tasks), `methods`, `steps` and `seed`.
        output: folder of the results.
        resume: as in `compare`.
        device: of the models.

    Returns:
        What `comparison.json` holds.

    Raises:
        OSError: the output folder can't be written (checked before any work), or a model or file can't be read.
        ValueError: a row or option is unknown (checked before any work), or the suite does not fit.
    """
    settings = settings_of(config)
    settings.rows()  # unknown ones are told before experts are loaded or made
    check_writable(output)
    watch = Stopwatch(typer.echo)
    suite = load_suite(config, device=device, watch=watch)
    results = compare(suite, settings, output, watch=watch, origin=origin_of(config), resume=resume)
    typer.echo("\n" + tables.terminal(results))
    typer.echo(f"\ncomparison.json, comparison.md, pictures and report.html are in {output}")
    return results


def with_choices(
    config: MergeConfig, *, methods: str | None = None, steps: int | None = None, seed: int | None = None
) -> MergeConfig:
    """Return a configuration with what was chosen on the command line in the place of what its file says.

    Args:
        config: the file.
        methods: names of rows, parted by commas; their options are those of the file.
        steps: of adaptation.
        seed: of everything random.
    """
    changes: dict[str, Any] = {"steps": steps, "seed": seed}
    if methods is not None:
        own = config.methods or {}
        changes["methods"] = {name: own.get(name, {}) for name in map(str.strip, methods.split(","))}
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def settings_of(config: MergeConfig) -> CompareSettings:
    """Return what a configuration decides of a comparison beside its suite."""
    chosen = {} if config.steps is None else {"steps": config.steps}
    return CompareSettings(seed=config.seed, methods=config.methods, **chosen)


def origin_of(config: MergeConfig) -> dict[str, Any]:
    """Return what a configuration says of the suite, as it is kept in results."""
    return config.model_dump(mode="json", include={"suite", "base_model", "models", "tasks", "dtype"})
