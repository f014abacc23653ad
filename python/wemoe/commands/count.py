"""`wemoe count`: parameters of upcycled architectures, from shapes alone."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from wemoe.architectures import ARCHITECTURES
from wemoe.commands.numbers import parse_numbers
from wemoe.commands.options import Json
from wemoe.counting import Counts
from wemoe.counting import count as count_parameters
from wemoe.routed_methods import ROUTED_METHODS, Modules, choose

_Architecture = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ARCHITECTURES)}.")]
_Tasks = Annotated[str, typer.Option(help="Numbers of fine-tuned models: one (8), a range (1-8) or a list (1,3,5).")]
_RouterLayers = Annotated[
    int, typer.Option(metavar="N", help="Depth of the routers: 0 (a learned constant per MLP; not for pwemoe), 1 or 2.")
]
_Method = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ROUTED_METHODS)}.")]
_PruneRatio = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of each task vector's entries removed; e_wemoe: 0.9.")
]
_PositionEncoding = Annotated[
    bool, typer.Option("--position-encoding", help="Let e_wemoe's shared router read which block is asking.")
]
_Modules = Annotated[Modules, typer.Option(help="What pwemoe routes.")]
_Published = Annotated[
    bool,
    typer.Option("--published", help="With --modules all, count modules too that never touch the output (OpenCLIP)."),
]

_TITLES = {"wemoe": "WEMoE", "e_wemoe": "E-WEMoE", "pwemoe": "PWEMoE"}


def count(
    architecture: _Architecture,
    tasks: _Tasks = "1-8",
    method: _Method = "wemoe",
    router_layers: _RouterLayers = 2,
    prune_ratio: _PruneRatio = None,
    position_encoding: _PositionEncoding = False,
    modules: _Modules = "mlp",
    published: _Published = False,
    as_json: Json = False,
) -> None:
    """Count parameters from shapes alone.

    Every MLP of the model is upcycled, or what --modules says; everything else is merged once. No weights are needed.
    "saved" compares the total with keeping all the fine-tuned models. "kept" counts what pruning leaves of the task
    vectors, "kept_total" the model without the rest; "total" counts what is pruned too, as published tables do.
    """
    chosen = choose(method, prune_ratio=prune_ratio, position_encoding=position_encoding, modules=modules)
    counts = [
        count_parameters(
            architecture,
            number,
            router_layers,
            method=method,
            prune_ratio=prune_ratio,
            position_encoding=position_encoding,
            modules=modules,
            published=published,
        )
        for number in parse_numbers(tasks, "--tasks")
    ]
    settings = {"architecture": architecture, "method": method, "router_layers": router_layers, **asdict(chosen)}
    if as_json:
        typer.echo(json.dumps([settings | {"published": published} | row.as_dict() for row in counts], indent=2))
    else:
        title = f"{_TITLES[method]} on {architecture}, router layers: {router_layers}"
        if chosen.reads == "preference":
            title += f", {counts[0].routed_modules} modules routed ({modules})"
        typer.echo(f"{title}\n\n{_table(counts)}")


def _table(counts: list[Counts]) -> str:
    names = ["tasks", "trainable", "percentage", "total", "static", "routed_base", "task_vectors", "saved"]
    if any(row.kept < row.task_vectors for row in counts):
        names += ["kept", "kept_total"]
    rows = [tuple(names)] + [tuple(_cell(getattr(row, name)) for name in names) for row in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _cell(number: int | float) -> str:
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:.2f} %" if number >= 0.01 else f"{number:.5f} %"  # routers of a preference are a millionth
