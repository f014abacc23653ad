"""`wemoe report`: one HTML file of a folder of results."""

from pathlib import Path
from typing import Annotated

import typer

_Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder that compare or evaluate has written.", show_default=False)
]


def report(folder: _Folder) -> None:
    """Make one HTML page of a folder of results.

    Reads what DIR holds of comparison.json, evaluation.json, unseen.json and corruptions.json, and writes
    DIR/report.html, one file with all tables and plots that needs no other.
    """
    from wemoe.html_report import write_report

    typer.echo(f"the report is {write_report(folder)}")
