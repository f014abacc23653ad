"""`wemoe pareto`: a model for every preference between tasks, and its front."""

from pathlib import Path
from typing import Annotated

import typer

from wemoe.commands.merge import overrides
from wemoe.commands.options import Config, Device, Seed

_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the model and the front; it appears whole.")]
_Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of training.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the training of an interrupted run.")]


def pareto(
    config: Config,
    output: _Output,
    device: Device = None,
    seed: Seed = None,
    steps: _Steps = None,
    resume: _Resume = False,
) -> None:
    """Train a model that a preference steers, and measure its front.

    Upcycles the base and the experts of the configuration (merge_method: pwemoe), trains its routers on labelled data,
    and measures it at a grid of preferences beside baselines. Writes model/, front.json, front.csv and front.png;
    `wemoe unload DIR/model --preference 0.7,0.3` makes the plain model of a preference.
    """
    from wemoe.configured_pareto import pareto as run
    from wemoe.merge_config import read_config

    settings = read_config(config, overrides(seed=seed, steps=steps), to_merge=True)
    run(settings, output, device=device, resume=resume, tell=typer.echo)
    typer.echo(f"model/, front.json, front.csv and front.png are in {output}")
