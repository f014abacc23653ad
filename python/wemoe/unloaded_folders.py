"""Unloading a checkpoint: a routed model's folder in, a plain Hugging Face folder out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData
from torch import Tensor
from transformers import PreTrainedModel

from wemoe.checkpoints import read_checkpoint
from wemoe.config import RoutingConfig
from wemoe.files import check_writable
from wemoe.heads import HEADS_FILE
from wemoe.loading import from_pretrained
from wemoe.merged_folders import CARRIED
from wemoe.model_card import cell, hub_names, sealed, sources_table
from wemoe.preferences import PreferenceLike, check_preference, get_preference
from wemoe.repositories import locate
from wemoe.unloading import RoutingWeights, check_routing, merge_and_unload, routing_constants
from wemoe.whole_models import model_folder


def unload_folder(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    preference: PreferenceLike | None = None,
    *,
    routing_weights: RoutingWeights | None = None,
    progress: bool = True,
) -> None:
    """Fold the routed model of a checkpoint into a plain one, and write it whole or not at all.

    Heads, tokenizer and preprocessor files are carried over.

    Args:
        checkpoint: folder or repository of a routed model whose base is a class of transformers.
        output: folder of the plain model; not that of the checkpoint.
        preference: as in `wemoe.merge_and_unload`.
        routing_weights: as in `wemoe.merge_and_unload`.
        progress: whether to show a progress bar.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        OSError: the folder cannot be written; checked before any work.
        ValueError: as in `wemoe.from_pretrained` and `wemoe.merge_and_unload`, or the folders are the same.
    """
    target = Path(output)
    check_writable(target.absolute().parent)
    patterns = ["config.json", *CARRIED, HEADS_FILE]
    source = locate(checkpoint, patterns, revision=None, token=None, local_files_only=False)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"output must be a folder of its own; found that of the routed model, {str(target)!r}")
    check_routing(read_checkpoint(source).config, preference, routing_weights)  # before the weights are read
    model = from_pretrained(checkpoint, progress=progress)
    config = model.routing_config
    chosen = get_preference(model) if config.reads == "preference" and preference is None else preference
    constants = routing_constants(model, chosen, routing_weights)
    plain = merge_and_unload(model, chosen, routing_weights=routing_weights)
    if not isinstance(plain, PreTrainedModel):
        raise ValueError(f"the base must be a class of transformers to be saved; found {type(plain).__name__}")
    preferred = None if chosen is None else check_preference(chosen, config.tasks)
    with model_folder(target, source, _card(config, preferred, constants)) as staging:
        plain.save_pretrained(staging)
        if (source / HEADS_FILE).is_file():
            shutil.copyfile(source / HEADS_FILE, staging / HEADS_FILE)


def _card(config: RoutingConfig, preference: Tensor | None, constants: Mapping[str, Tensor]) -> str:
    names = None if config.provenance is None else hub_names(config.provenance)
    data = ModelCardData(library_name="transformers", tags=["merge", "wemoe"], base_model=names)
    header = ["", *map(cell, config.tasks)]
    rows = [[path, *_decimals(weights)] for path, weights in constants.items()]
    if preference is not None:
        rows.insert(0, ["**the preference**", *_decimals(preference.reshape(-1))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    made_of = "" if config.provenance is None else f"## Made of\n\n{sources_table(config.provenance)}\n\n"
    routed, at = ("MLPs", "") if preference is None else ("modules below", " at one preference")
    return sealed(f"""---
{data.to_yaml()}
---

# {config.base_class} of {len(config.tasks)} merged experts

A plain model: the routing weights of a routed one{at}, folded into the weights of its {routed}.

```python
from transformers import {config.base_class}

model = {config.base_class}.from_pretrained("...")  # this folder, or this repository's name
```

{made_of}## Settings

Everything but the {routed} is the base plus {config.init_lambda} times the sum of the task vectors; each of those is
the base plus the task vectors times:

{table}

""")


def _decimals(weights: Tensor) -> list[str]:
    return [f"{weight:.4f}" for weight in weights.tolist()]
