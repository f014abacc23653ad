"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).", show_default=False)]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results; it appears whole.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")]
Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="Dtype of the result: float32, bfloat16, float16.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Seed of everything random.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of test-time adaptation.")]
