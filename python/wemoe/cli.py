"""The command line, ``wemoe``. Whatever is slow to import is imported by the command that needs it."""

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wemoe import __version__
from wemoe.commands.adapt import adapt
from wemoe.commands.compare import compare
from wemoe.commands.count import count
from wemoe.commands.data import data
from wemoe.commands.evaluate import evaluate
from wemoe.commands.info import info
from wemoe.commands.merge import merge
from wemoe.commands.methods import methods
from wemoe.commands.pareto import pareto
from wemoe.commands.quickstart import quickstart
from wemoe.commands.report import report
from wemoe.commands.unload import unload


class _Commands(TyperGroup):
    """Commands that report errors of use (values, files, installation) in lines of their own, with exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            for line in (str(error) or type(error).__name__).splitlines():
                typer.echo(f"wemoe: error: {line}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="wemoe",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wemoe {__version__}")
        raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]
_Debug = Annotated[bool, typer.Option("--debug", envvar="WEMOE_DEBUG", help="Show the traceback of an error.")]


@app.callback()
def _options(version: _Version = False, debug: _Debug = False) -> None:
    """Merge fine-tuned transformers into one model that assembles each sample's own weights."""


for _command in (merge, adapt, pareto, evaluate, compare, report, unload, methods, quickstart, data, count, info):
    app.command()(_command)


def _one_line(message: Warning | str, *_args: Any, **_kwargs: Any) -> str:
    return f"wemoe: warning: {message}\n"


def main() -> None:
    """The entry point of the ``wemoe`` command."""
    warnings.formatwarning = _one_line
    app(prog_name="wemoe")
