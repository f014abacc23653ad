"""`wemoe adapt`: routers trained on unlabeled data."""

from pathlib import Path
from typing import Annotated

import typer

from wemoe.commands.merge import overrides
from wemoe.commands.options import Config, Device, Seed, Steps

_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the routed model; it appears whole.")]
_Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="A routed model to go on with, in place of a new one.")
]


def adapt(
    config: Config,
    output: _Output,
    model: _Model = None,
    device: Device = None,
    seed: Seed = None,
    steps: Steps = None,
) -> None:
    """Train the routers of a model on unlabeled data.

    Upcycles the base and the experts of the configuration, or takes a routed model that was saved (--model), adapts
    its routers on the unlabeled data of the tasks, and saves it with their heads.
    """
    from wemoe.configured_adaptation import adapt as run
    from wemoe.merge_config import read_config

    settings = read_config(config, overrides(seed=seed, steps=steps), to_merge=True)
    adapted = run(settings, output, model=model, device=device, tell=typer.echo)
    for task, accuracy in adapted.accuracy.items():
        typer.echo(f"{task}: {accuracy:.2%} on test data")
    typer.echo(f"the routed model is in {output}")
