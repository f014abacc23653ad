"""`wemoe compare`: a configuration file to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file: suite, or base_model, models, tasks.")]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of adaptation: 50, or what the file says.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed: 0, or what the file says.")]
Methods = Annotated[str | None, typer.Option(metavar="A,B,C", help="Rows to run, instead of the file's.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the rows that DIR has from the same run.")]


def compare(
    config: ConfigFile,
    output: Output = Path("outputs/comparison"),
    steps: Steps = None,
    seed: Seed = None,
    methods: Methods = None,
    resume: Resume = False,
) -> None:
    """Compare all methods on one suite.

    Makes every merge, scores it on test data, measures what it costs, and writes comparison.json, comparison.md and
    comparison.png. What a method needs searched is searched on validation data.
    """
    from wemoe.comparison.configured import run
    from wemoe.merge_config import read_config

    read = read_config(config)
    changes: dict[str, Any] = {"steps": steps, "seed": seed}
    if methods is not None:
        own = read.methods or {}
        changes["methods"] = {name: own.get(name, {}) for name in map(str.strip, methods.split(","))}
    given = {key: value for key, value in changes.items() if value is not None}
    run(read.model_copy(update=given), output, resume)
