"""Writing what methods that read data have made: a model in memory, with its heads, the base's tokenizer and a card."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from wemoe.files import check_writable, replacing_files
from wemoe.heads import Heads, task_heads, write_heads
from wemoe.merged_card import merged_card_text, recipe_sections
from wemoe.merged_folders import STALE, carry_over
from wemoe.merging.rules import Sources
from wemoe.model_card import CARD_FILE, card_text, may_write_card
from wemoe.provenance import provenance_of
from wemoe.routed_classes import RoutedModule
from wemoe.saving import as_written


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
    card = card_text(as_written(model.routing_config), recipe_sections(recipe, metrics))
    with model_folder(output, base_folder, card) as staging:
        model.save_pretrained(staging, heads=heads)


def write_plain(
    output: str | os.PathLike[str],
    model: PreTrainedModel,
    heads: Heads,
    sources: Sources,
    *,
    dtype: torch.dtype | None = None,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a plain model into a folder that transformers reads, whole or not at all.

    Args:
        output: the folder.
        model: what is written.
        heads: by task, what is kept beside it.
        sources: what it was made of.
        dtype: of the weights; the model, which is converted, has its own by default.
        recipe: as in `write_routed`.
        metrics: as in `write_routed`.

    Raises:
        OSError: the folder cannot be written.
        TypeError, ValueError: `heads` do not belong to the model.
    """
    kept = task_heads(heads, model)
    provenance = provenance_of(sources.base, sources.experts)
    card = merged_card_text(type(model).__name__, provenance, recipe, metrics, kept, {})
    if dtype is not None:
        cast("nn.Module", model).to(dtype)
    with model_folder(output, sources.base.folder, card) as staging:
        model.save_pretrained(staging)
        if kept:
            write_heads(kept, staging)


@contextmanager
def model_folder(output: str | os.PathLike[str], carried_from: Path | None, card: str) -> Iterator[Path]:
    """Yield a folder to write a model into; with what is carried over, it takes the place of the output's files."""
    target = Path(output)
    check_writable(target.absolute().parent)
    writes_card = may_write_card(target)
    with replacing_files(target, stale=STALE) as staging:
        yield staging
        carry_over(carried_from, staging)
        (staging / CARD_FILE).unlink(missing_ok=True)
        if writes_card:
            (staging / CARD_FILE).write_text(card, encoding="utf-8")
