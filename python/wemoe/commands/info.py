"""`wemoe info`: versions, build and machine."""

import json

import typer

from wemoe.commands.options import Json


def info(as_json: Json = False) -> None:
    """Tell versions, build and machine."""
    from wemoe.info import collect, format_report

    report = collect()
    typer.echo(json.dumps(report, indent=2) if as_json else format_report(report))
