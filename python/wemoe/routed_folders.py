"""Writing a routed model with all that its merge knows: heads, the base's tokenizer, the configuration in the card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wemoe.files import check_writable, replacing_files
from wemoe.heads import HEADS_FILE, Heads
from wemoe.merged_card import recipe_sections
from wemoe.merged_folders import WEIGHTS_GLOB as PLAIN_WEIGHTS_GLOB
from wemoe.merged_folders import carry_over
from wemoe.model_card import CARD_FILE, card_text, may_write_card
from wemoe.routed_classes import RoutedModule
from wemoe.saving import GENERATION_FILE, WEIGHTS_GLOB, as_written


def write_routed(
    output: str | os.PathLike[str],
    model: RoutedModule,
    heads: Heads,
    base_folder: Path | None,
    *,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a routed model into a folder that `wemoe.from_pretrained` reads, whole or not at all.

    Args:
        output: the folder.
        model: what is written.
        heads: by task, what is kept beside it.
        base_folder: the base's, of which tokenizer and preprocessor files are carried over.
        recipe: the configuration of the merge, for the model card.
        metrics: numbers by name for the model card, perhaps one level inside the other.

    Raises:
        OSError: the folder cannot be written.
        TypeError, ValueError: `heads` do not belong to the model.
    """
    target = Path(output)
    check_writable(target.absolute().parent)
    writes_card = may_write_card(target)
    with replacing_files(target, stale=(WEIGHTS_GLOB, PLAIN_WEIGHTS_GLOB, HEADS_FILE, GENERATION_FILE)) as staging:
        model.save_pretrained(staging, heads=heads)
        carry_over(base_folder, staging)
        card = staging / CARD_FILE
        if writes_card:
            sections = recipe_sections(recipe, metrics)
            card.write_text(card_text(as_written(model.routing_config), sections), encoding="utf-8")
        else:
            card.unlink()
