"""`wemoe quickstart`: six experts of one small model, merged by every method."""

from pathlib import Path
from typing import Annotated

import typer

from wemoe.commands.options import Steps

_Seed = Annotated[int, typer.Option(metavar="N", help="Seed of fine-tuning and adaptation.")]
_Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results, the plots and the model.")]


def quickstart(seed: _Seed = 0, steps: Steps = None, output: _Output = Path("outputs/quickstart")) -> None:
    """Merge six text experts and compare.

    Fine-tunes MiniLM on six real text tasks (once), merges the experts with every method, adapts the routers
    on unlabeled texts, and writes accuracies, plots and the adapted model.
    """
    from wemoe.quickstart import run

    run(seed=seed, steps=steps, output=output)
