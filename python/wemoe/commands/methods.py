"""`wemoe methods`: what `merge_method` in a configuration file may be."""

import json
from typing import Annotated, Any

import typer

from wemoe.commands.options import Json

_Schema = Annotated[bool, typer.Option("--schema", help="Print the JSON schema of configuration files.")]
ROUTED = {
    "wemoe": "each sample its own weights: a router in every MLP, learned on unlabeled data",
    "e_wemoe": "wemoe with one router for all MLPs and task vectors of which a tenth is kept",
    "pwemoe": "a model for every preference between the tasks: routers of the preference, trained by `wemoe pareto`",
}


def methods(as_json: Json = False, schema: _Schema = False) -> None:
    """List the merging methods, one line each."""
    from wemoe.merge_config import config_schema

    if schema:
        typer.echo(json.dumps(config_schema(), indent=2))
        return
    found = _methods()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max(len(row["name"]) for row in found)
    for row in found:
        data = "; reads data" if row["reads_data"] else ""
        typer.echo(f"{row['name']:<{width}}  {row['description']}{data}")


def _methods() -> list[dict[str, Any]]:
    from wemoe.configured_models import RULE_NAMES
    from wemoe.merging import METHODS
    from wemoe.method_parameters import PARAMETERS

    described = METHODS | ROUTED
    return [
        {
            "name": name,
            "description": described[RULE_NAMES.get(name, name)],
            "reads_data": kind.reads_data,
            "parameters": kind().model_dump(by_alias=True),
            "parameters_of_one_model": list(kind.per_model.model_fields),
        }
        for name, kind in PARAMETERS.items()
    ]
