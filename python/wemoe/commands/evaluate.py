"""`wemoe evaluate`: accuracy of a saved model on the tasks of a configuration or of a built-in suite."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wemoe.commands.options import Json

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder or repository of a routed or a plain model.", show_default=False)
]
_Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Configuration (YAML) with the tasks and what was merged.")
]
_Suite = Annotated[str | None, typer.Option(metavar="NAME", help="A built-in suite instead of a configuration: text6.")]
_Part = Annotated[Literal["train", "validation", "test"], typer.Option(help="Part of the data.")]
_Task = Annotated[
    list[str] | None, typer.Option("--task", metavar="NAME", help="Only this task; may be given several times.")
]
_Device = Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")]
_Output = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file of the results.")]


def evaluate(
    model: _Model,
    config: _Config = None,
    suite: _Suite = None,
    part: _Part = "test",
    task: _Task = None,
    device: _Device = "cpu",
    as_json: Json = False,
    output: _Output = None,
) -> None:
    """Score a saved model on every task.

    Each task is read through its own head: the one that the configuration names, else the one in the
    model's folder, else the expert's.
    """
    from wemoe.evaluation.checkpoints import evaluate_checkpoint
    from wemoe.files import check_writable, write_text
    from wemoe.merge_config import parse_config, read_config
    from wemoe.stopwatch import Stopwatch

    if (config is None) == (suite is None):
        raise ValueError("evaluate needs either --config or --suite, to know the tasks")
    if output is not None:
        if output.is_dir():
            raise IsADirectoryError(f"--output must be a file; found a folder at {str(output)!r}")
        check_writable(output.absolute().parent)
    source = parse_config({"suite": suite}) if config is None else read_config(config)
    watch = Stopwatch(lambda line: typer.echo(line, err=True))
    results = evaluate_checkpoint(model, source, tasks=task or (), part=part, device=device, watch=watch)
    if output is not None:
        write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(json.dumps(results, indent=2) if as_json else _table(results))


def _table(results: dict[str, Any]) -> str:
    """Format accuracies in percent, a task in each line."""
    rows = [("task", f"{results['part']} accuracy, %", "samples")]
    rows += [
        (task, f"{100 * share:.1f}", f"{results['samples'][task]:,}") for task, share in results["accuracy"].items()
    ]
    rows.append(("average", f"{100 * results['average']:.1f}", ""))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:<{first}}  {b:>{second}}  {c:>{third}}".rstrip() for a, b, c in rows)
