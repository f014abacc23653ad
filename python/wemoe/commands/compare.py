"""``wemoe compare``: all methods on one suite, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from wemoe.commands.options import Config, Device, Seed, Steps

_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")]
_Methods = Annotated[str | None, typer.Option(metavar="A,B,C", help="Rows to run, instead of those of the file.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Keep the rows that DIR holds of the same run.")]


def compare(
    config: Config,
    output: _Output = Path("outputs/comparison"),
    steps: Steps = None,
    seed: Seed = None,
    methods: _Methods = None,
    resume: _Resume = False,
    device: Device = None,
) -> None:
    """Compare all methods on one suite.

    Merges by every method, scores the models on test data, measures what they cost, and writes comparison.json,
    comparison.md, pictures, and report.html with all of it. Coefficients are searched on validation data.
    """
    from wemoe.comparison.configured import run, with_choices
    from wemoe.merge_config import read_config

    run(with_choices(read_config(config), methods=methods, steps=steps, seed=seed), output, resume, device or "cpu")
