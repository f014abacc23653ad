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


def run(config: MergeConfig, output: str | os.PathLike[str], resume: bool = False) -> dict[str, Any]:
    """Load the suite of a configuration, compare the methods on it, and print the table.

    Args:
        config: suite (or base, models and tasks), `methods`, `steps` and `seed`.
        output: folder of the results.
        resume: as in `compare`.

    Returns:
        What `comparison.json` holds.

    Raises:
        OSError: the output folder can't be written (checked before any work), or a model or file can't be read.
        ValueError: a row or option is unknown (checked before any work), or the suite does not fit.
    """
    chosen = {} if config.steps is None else {"steps": config.steps}
    settings = CompareSettings(seed=config.seed, methods=config.methods, **chosen)
    settings.rows()  # unknown ones are told before experts are loaded or made
    check_writable(output)
    watch = Stopwatch(typer.echo)
    suite = load_suite(config, watch=watch)
    origin = config.model_dump(mode="json", include={"suite", "base_model", "models", "tasks", "dtype"})
    results = compare(suite, settings, output, watch=watch, origin=origin, resume=resume)
    typer.echo("\n" + tables.terminal(results))
    typer.echo(f"\ncomparison.json, comparison.md, pictures and report.html are in {output}")
    return results
