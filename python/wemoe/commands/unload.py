"""`wemoe unload`: a routed model becomes a plain one, at a preference or with constant routing."""

from pathlib import Path
from typing import Annotated

import typer

_Checkpoint = Annotated[str, typer.Argument(metavar="MODEL", help="Folder or repository of a routed model.")]
_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the plain model; it appears whole.")]
_Preference = Annotated[
    str | None,
    typer.Option(
        metavar="V1,V2",
        help="Of a PWEMoE, how much each task counts: 0.7,0.3 in the model's order, or movies=0.7,icd=0.3.",
    ),
]
_Weights = Annotated[
    str | None,
    typer.Option(metavar="V1,V2", help="Routing weights of the tasks, in place of routers that read their input."),
]


def unload(
    checkpoint: _Checkpoint, output: _Output, preference: _Preference = None, routing_weights: _Weights = None
) -> None:
    """Fold a routed model into a plain one that transformers loads.

    A PWEMoE becomes the model of one preference (by default of the one that it was saved with), and computes the same
    afterwards. So does a model whose routers have depth 0. Deeper routers read their input; --routing-weights puts
    constants in their place, one for each task in the model's order.
    """
    wanted = None if preference is None else parse_preference(preference)
    constants = None if routing_weights is None else parse_weights(routing_weights)
    from wemoe.unloaded_folders import unload_folder

    unload_folder(checkpoint, output, wanted, routing_weights=constants)
    typer.echo(f"the plain model is in {output}")


def parse_preference(text: str) -> list[float] | dict[str, float]:
    """Read `0.7,0.3`, or `movies=0.7,icd=0.3`.

    Raises:
        ValueError: it is neither.
    """
    try:
        if "=" not in text:
            return [float(number) for number in text.split(",")]
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        named = {task.strip(): float(number) for task, _, number in pairs}
    except ValueError as error:
        raise ValueError(f"--preference must be like 0.7,0.3 or movies=0.7,icd=0.3; found {text!r}") from error
    if len(named) < len(pairs):
        raise ValueError(f"--preference must name a task once; found {text!r}")
    return named


def parse_weights(text: str) -> list[float]:
    """Read `0.3,0.1`.

    Raises:
        ValueError: these are no numbers.
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--routing-weights must be numbers like 0.3,0.1; found {text!r}") from error
