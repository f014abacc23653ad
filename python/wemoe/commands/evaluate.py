"""`wemoe evaluate`: accuracy of a saved model on every task; without one, of every method and objective over seeds."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wemoe.commands.numbers import parse_numbers
from wemoe.commands.options import Json

_Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="Folder or repository of a routed or a plain model to score.", show_default=False
    ),
]
_Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Configuration (YAML) with the tasks and what is, or was, merged.")
]
_Suite = Annotated[
    str | None, typer.Option(metavar="NAME", help="A built-in suite instead of a configuration: text6 or vision8.")
]
_Output = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="With MODEL, a JSON file of the results; without, the folder of all results."),
]
_Parts = Literal["train", "validation", "test"]
_Part = Annotated[_Parts, typer.Option(help="With MODEL: part of the data.")]
_Task = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="With MODEL: only this task; may be given several times."),
]
_Device = Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")]
_Seeds = Annotated[str, typer.Option(metavar="0,1,2", help="Without MODEL: the seeds, a list or a range (0-2).")]
_Methods = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="Without MODEL: rows to run, instead of those of the file, or all.")
]
_Steps = Annotated[int | None, typer.Option(metavar="N", help="Without MODEL: steps of test-time adaptation.")]
_Experiments = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Without MODEL: what is run beside, with the first seed: unseen, corruptions, both, or none. "
        "By default what the suite allows.",
    ),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Without MODEL: keep what PATH holds of the same run.")]

_WITH_MODEL = ("part", "task")
_WITHOUT_MODEL = ("seeds", "methods", "steps", "experiments", "resume")


def evaluate(
    context: typer.Context,
    model: _Model = None,
    config: _Config = None,
    suite: _Suite = None,
    output: _Output = None,
    as_json: Json = False,
    part: _Part = "test",
    task: _Task = None,
    device: _Device = "cpu",
    seeds: _Seeds = "0,1,2",
    methods: _Methods = None,
    steps: _Steps = None,
    experiments: _Experiments = None,
    resume: _Resume = False,
) -> None:
    """Score a saved model, or all methods over seeds.

    `wemoe evaluate MODEL --suite text6` scores a model on every task. Each task is read through its own head: the one
    that the configuration names, else the one in the model's folder, else the expert's.

    `wemoe evaluate --suite text6 --output DIR`, without MODEL, is `wemoe compare` for each seed: every method and
    objective merges, adapts and is scored, routed models per sample and averaged over the batch, in batches of one
    task and of all mixed. evaluation.json, .md and .png have means and spreads, report.html shows everything. It takes
    as long as that many comparisons, and the experiments beside.
    """
    _check_options(context, model)
    if (config is None) == (suite is None):
        raise ValueError("evaluate needs either --config or --suite, to know the tasks")
    if model is None:
        results, table = _evaluate_suite(
            config, suite, output, seeds, methods, steps, experiments, resume, device, as_json
        )
    else:
        results, table = _evaluate_model(model, config, suite, output, part, task or [], device)
    typer.echo(json.dumps(results, indent=2) if as_json else table)


def _check_options(context: typer.Context, model: str | None) -> None:
    """Refuse options that are of the other kind of evaluation."""
    for name in _WITH_MODEL if model is None else _WITHOUT_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            rule = "needs MODEL; found none" if model is None else f"is for all methods, without MODEL; found {model!r}"
            raise ValueError(f"--{name} {rule}")


def _evaluate_model(
    model: str,
    config: Path | None,
    suite: str | None,
    output: Path | None,
    part: _Parts,
    tasks: list[str],
    device: str,
) -> tuple[dict[str, Any], str]:
    from wemoe.evaluation.checkpoints import evaluate_checkpoint
    from wemoe.files import check_writable, write_json
    from wemoe.merge_config import parse_config, read_config
    from wemoe.stopwatch import Stopwatch

    if output is not None:
        if output.is_dir():
            raise IsADirectoryError(f"--output must be a file; found a folder at {str(output)!r}")
        check_writable(output.absolute().parent)
    source = parse_config({"suite": suite}) if config is None else read_config(config)
    watch = Stopwatch(lambda line: typer.echo(line, err=True))
    results = evaluate_checkpoint(model, source, tasks=tasks, part=part, device=device, watch=watch)
    if output is not None:
        write_json(output, results)
    return results, _table(results)


def _evaluate_suite(
    config: Path | None,
    suite: str | None,
    output: Path | None,
    seeds: str,
    methods: str | None,
    steps: int | None,
    experiments: str | None,
    resume: bool,
    device: str,
    as_json: bool,
) -> tuple[dict[str, Any], str]:
    if output is None:
        raise ValueError(
            "evaluate needs MODEL, a model to score, or --output, a folder for the results of all methods over --seeds"
        )
    numbers = parse_numbers(seeds, "--seeds")
    from wemoe.comparison.configured import with_choices
    from wemoe.merge_config import parse_config, read_config
    from wemoe.over_seeds import evaluate_suite, tables

    source = parse_config({"suite": suite}) if config is None else read_config(config)
    results = evaluate_suite(
        with_choices(source, methods=methods, steps=steps),
        output,
        seeds=numbers,
        experiments=None if experiments is None else _names(experiments),
        resume=resume,
        device=device,
        tell=lambda line: typer.echo(line, err=as_json),
    )
    return results, f"\n{tables.terminal(results)}\n\nThe report of all of it is {output / 'report.html'}."


def _names(text: str) -> list[str]:
    """The names of a list; `none` is an empty one."""
    return [] if text == "none" else [name.strip() for name in text.split(",")]


def _table(results: dict[str, Any]) -> str:
    """Format accuracies in percent, a task in each line."""
    rows = [("task", f"{results['part']} accuracy, %", "samples")]
    rows += [
        (task, f"{100 * share:.1f}", f"{results['samples'][task]:,}") for task, share in results["accuracy"].items()
    ]
    rows.append(("average", f"{100 * results['average']:.1f}", ""))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:<{first}}  {b:>{second}}  {c:>{third}}".rstrip() for a, b, c in rows)
