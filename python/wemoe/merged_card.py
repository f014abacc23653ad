"""The model card of a merged model: what it was made of, how, how good it is, and how to make it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from wemoe.config import Provenance
from wemoe.merging import METHODS
from wemoe.model_card import cell, hub_names, sealed, sources_table
from wemoe.provenance import public_name


def merged_card_text(
    model_class: str | None,
    provenance: Provenance,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    heads: Mapping[str, object],
    left_out: Mapping[str, tuple[str, ...]],
) -> str:
    """Write the card of a merged model.

    Args:
        model_class: name of its class in transformers; None where it is no more than tensors.
        provenance: what it was made of.
        recipe: how, as a configuration; of paths on this machine only the last part is written.
        metrics: numbers by name, or by several names, one inside the other.
        heads: by task, heads that lie beside the model.
        left_out: by model, names of tensors that were neither merged nor kept.
    """
    data = ModelCardData(
        library_name="transformers" if model_class else None,
        tags=["merge", "wemoe"],
        base_model=hub_names(provenance),
    )
    parts = [
        f"# {model_class or 'Weights'} of {len(provenance.experts)} merged experts",
        _method(recipe),
        _loading(model_class),
        "## Made of",
        sources_table(provenance),
    ]
    if heads:
        tasks = ", ".join(map(cell, heads))
        parts += ["## Heads", f"`wemoe.load_heads` gives the heads of these tasks, which are not merged: {tasks}."]
    if left_out:
        parts += ["## Left out", "\n".join(f"- of `{who}`: {len(names)} tensors" for who, names in left_out.items())]
    parts += recipe_sections(recipe, metrics)
    text = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n\n"
    ModelCard(text)  # raises if the metadata could not be read back
    return sealed(text)


def recipe_sections(recipe: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> list[str]:
    """Write the last sections of a card: metrics where there are some, and the configuration of the merge."""
    parts = []
    if metrics:
        rows = [f"| {cell(name)} | {value:.4g} |" for name, value in _flat(metrics)]
        parts += ["## Metrics", "\n".join(["| | |", "|---|---|", *rows])]
    written = yaml.safe_dump(without_paths(recipe), sort_keys=False, allow_unicode=True)
    return [*parts, "## Configuration", f"```yaml\n{written}```"]


def without_paths(value: Any) -> Any:
    """Copy a configuration with plain types, and of every absolute path in it only the last part."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str | os.PathLike):
        parts = os.fspath(value).split("+")  # a LoRA adapter on a model
        return "+".join((public_name(part) or "") if os.path.isabs(part) else part for part in parts)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _method(recipe: Mapping[str, Any]) -> str:
    method = recipe.get("merge_method")
    description = METHODS.get(str(method))
    return f"Method: `{method}`, {description}." if description else f"Method: `{method}`." if method else ""


def _loading(model_class: str | None) -> str:
    if model_class is None:
        return ""
    return f"""```python
from transformers import {model_class}

model = {model_class}.from_pretrained("...")  # this folder, or this repository's name
```"""


def _flat(metrics: Mapping[str, Any], path: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in metrics.items():
        label = f"{path}{name}"
        found += _flat(value, f"{label}, ") if isinstance(value, Mapping) else [(label, float(value))]
    return found
