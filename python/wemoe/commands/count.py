"""`wemoe count`: parameters of upcycled architectures, from shapes alone."""

import json
import re
from dataclasses import asdict
from typing import Annotated

import typer

from wemoe.architectures import ARCHITECTURES
from wemoe.commands.options import Json
from wemoe.counting import Counts
from wemoe.counting import count as count_parameters
from wemoe.routed_methods import ROUTED_METHODS, choose

_Architecture = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ARCHITECTURES)}.")]
_Tasks = Annotated[str, typer.Option(help="Numbers of fine-tuned models: one (8), a range (1-8) or a list (1,3,5).")]
_RouterLayers = Annotated[
    int, typer.Option(metavar="N", help="Depth of the routers: 0 (a learned constant per MLP), 1 or 2.")
]
_Method = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ROUTED_METHODS)}.")]
_PruneRatio = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of each task vector's entries removed; e_wemoe: 0.9.")
]
_PositionEncoding = Annotated[
    bool, typer.Option("--position-encoding", help="Let e_wemoe's shared router read which block is asking.")
]


def count(
    architecture: _Architecture,
    tasks: _Tasks = "1-8",
    method: _Method = "wemoe",
    router_layers: _RouterLayers = 2,
    prune_ratio: _PruneRatio = None,
    position_encoding: _PositionEncoding = False,
    as_json: Json = False,
) -> None:
    """Count parameters from shapes alone.

    Every MLP of the model is upcycled, everything else is merged once; no weights are needed. "saved"
    compares the total with keeping all the fine-tuned models. "kept" counts what pruning leaves of the task vectors,
    "kept_total" the model without the rest; "total" counts what is pruned too, as published tables do.
    """
    chosen = asdict(choose(method, prune_ratio=prune_ratio, position_encoding=position_encoding))
    numbers = parse_tasks(tasks)
    counts = [count_parameters(architecture, number, router_layers, method=method, **chosen) for number in numbers]
    if as_json:
        settings = {"architecture": architecture, "method": method, "router_layers": router_layers, **chosen}
        typer.echo(json.dumps([settings | row.as_dict() for row in counts], indent=2))
    else:
        title = {"wemoe": "WEMoE", "e_wemoe": "E-WEMoE"}[method]
        typer.echo(f"{title} on {architecture}, router layers: {router_layers}\n\n{_table(counts)}")


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
    names = ["tasks", "trainable", "percentage", "total", "static", "base_mlps", "task_vectors", "saved"]
    if any(row.kept < row.task_vectors for row in counts):
        names += ["kept", "kept_total"]
    rows = [tuple(names)] + [tuple(_cell(getattr(row, name)) for name in names) for row in counts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def _cell(number: int | float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.2f} %"
