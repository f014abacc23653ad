"""The command line, ``wemoe``. Whatever is slow to import is imported by the command that needs it."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wemoe import __version__, compare_command
from wemoe.architectures import ARCHITECTURES
from wemoe.counting import Counts, count


class _Commands(TyperGroup):
    """Commands that report errors of use (values, files, installation) in one line, with exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            typer.echo(f"wemoe: error: {error}", err=True)
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
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
_Architecture = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ARCHITECTURES)}.")]
_Tasks = Annotated[str, typer.Option(help="Numbers of fine-tuned models: one (8), a range (1-8) or a list (1,3,5).")]
_RouterLayers = Annotated[
    int, typer.Option(metavar="N", help="Depth of the routers: 0 (a learned constant per MLP), 1 or 2.")
]
_Seed = Annotated[int, typer.Option(metavar="N", help="Seed of fine-tuning and adaptation.")]
_Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of test-time adaptation.")]
_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results, the plots and the model.")]


@app.callback()
def _options(version: _Version = False, debug: _Debug = False) -> None:
    """Merge fine-tuned transformers into one model that assembles each sample's own weights."""


@app.command("count")
def count_parameters(
    architecture: _Architecture,
    tasks: _Tasks = "1-8",
    router_layers: _RouterLayers = 2,
    as_json: _Json = False,
) -> None:
    """Count parameters from shapes alone.

    Every MLP of the model is upcycled, everything else is merged once; no weights are needed. "saved"
    compares the total with keeping all the fine-tuned models.
    """
    counts = [count(architecture, number, router_layers) for number in parse_tasks(tasks)]
    if as_json:
        settings = {"architecture": architecture, "router_layers": router_layers}
        typer.echo(json.dumps([settings | row.as_dict() for row in counts], indent=2))
    else:
        typer.echo(f"WEMoE on {architecture}, router layers: {router_layers}\n\n{_table(counts)}")


@app.command()
def info(as_json: _Json = False) -> None:
    """Tell versions, build and machine."""
    from wemoe.info import collect, format_report

    report = collect()
    typer.echo(json.dumps(report, indent=2) if as_json else format_report(report))


@app.command()
def quickstart(seed: _Seed = 0, steps: _Steps = None, output: _Output = Path("outputs/quickstart")) -> None:
    """Merge six text experts and compare.

    Fine-tunes MiniLM on six real text tasks (once), merges the experts with every method, adapts the routers
    on unlabeled texts, and writes accuracies, plots and the adapted model.
    """
    from wemoe.quickstart import run

    run(seed=seed, steps=steps, output=output)


app.command("compare")(compare_command.compare)


def parse_tasks(text: str) -> list[int]:
    """Reads numbers of tasks: ``"8"``, ``"1-8"``, ``"1,3,5"`` or a mixture such as ``"1-3,8"``.

    Raises:
        ValueError: anything else, or a range that runs backwards.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"--tasks must be a number (8), a range (1-8) or a list (1,3,5); found {text!r}")
        numbers.extend(range(first, last + 1))
    return numbers


def _table(counts: list[Counts]) -> str:
    names = ("tasks", "trainable", "percentage", "total", "static", "base_mlps", "task_vectors", "saved")
    rows = [names] + [tuple(_cell(getattr(row, name)) for name in names) for row in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _cell(number: int | float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.2f} %"


def main() -> None:
    """The entry point of the ``wemoe`` command."""
    app(prog_name="wemoe")
