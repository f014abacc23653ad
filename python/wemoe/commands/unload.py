"""`wemoe unload`: a routed model whose routing is constant becomes a plain one."""

from pathlib import Path
from typing import Annotated

import typer

_Checkpoint = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or repository of a routed model.")]
_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the plain model; it appears whole.")]
_Weights = Annotated[
    str | None,
    typer.Option(metavar="V1,V2", help="Routing weights of the tasks, in place of routers that read their input."),
]


def unload(checkpoint: _Checkpoint, output: _Output, routing_weights: _Weights = None) -> None:
    """Fold constant routing weights into a plain model.

    A model whose routers have depth 0 computes the same afterwards, and plain transformers loads it. Deeper routers
    read their input; --routing-weights puts constants in their place, one for each task in the model's order.
    """
    constants = None if routing_weights is None else parse_weights(routing_weights)
    from wemoe.unloaded_folders import unload_folder

    unload_folder(checkpoint, output, constants)
    typer.echo(f"the plain model is in {output}")


def parse_weights(text: str) -> list[float]:
    """Read `0.3,0.1`.

    Raises:
        ValueError: these are no numbers.
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--routing-weights must be numbers like 0.3,0.1; found {text!r}") from error
