"""`wemoe merge`: models merged as a configuration file says."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wemoe.commands.options import Config, Device, Dtype, Seed, Steps

_Output = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the merged model; it appears whole.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Check configuration and models, and write nothing.")]
_Sweep = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=V1,V2", help="Values of a parameter to choose from on validation data; repeatable."),
]


def merge(
    config: Config,
    output: _Output = None,
    dry_run: _DryRun = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = None,
    sweep: _Sweep = None,
    steps: Steps = None,
) -> None:
    """Merge models as a configuration file says.

    The file has mergekit's keys: base_model, models, merge_method, parameters, dtype. First every mismatch of base and
    experts is listed, and what the merge takes in memory and on disk. Methods that read data need tasks or a suite.
    """
    if output is None and not dry_run:
        raise ValueError("--output must be given, or --dry-run")
    from wemoe.configured_merge import check, merge
    from wemoe.merge_config import read_config

    settings = read_config(config, overrides(dtype, seed, parse_sweep(sweep or []), steps), to_merge=True)
    if output is None or dry_run:
        report = check(settings, device)
        if report is None:
            typer.echo("the configuration is right; a built-in suite makes its own models")
        else:
            typer.echo(str(report))
            report.raise_if_broken()
        return
    merged = merge(settings, output, device=device, tell=typer.echo)
    for task, accuracy in merged.accuracy.items():
        typer.echo(f"{task}: {accuracy:.2%} on test data")
    typer.echo(f"the merged model is in {output}")


def overrides(
    dtype: str | None = None,
    seed: int | None = None,
    sweep: dict[str, list[str]] | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Return what options put in the place of a configuration's keys."""
    found: dict[str, Any] = {} if dtype is None else {"dtype": dtype, "out_dtype": None}
    if seed is not None:
        found["seed"] = seed
    if sweep:
        found["sweep"] = sweep
    if steps is not None:
        found["parameters"] = {"steps": steps}
    return found


def parse_sweep(options: list[str]) -> dict[str, list[str]]:
    """Read `NAME=V1,V2`; what the values must be is checked with the configuration.

    Raises:
        ValueError: an option is not of this form.
    """
    found = {}
    for option in options:
        name, equals, values = option.partition("=")
        if not (name and equals and values):
            raise ValueError(f"--sweep must be a parameter with its values, lambda=0.1,0.2; found {option!r}")
        found[name.strip()] = values.split(",")
    return found
