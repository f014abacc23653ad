"""A front as a folder: the model that is steered, and what was measured of it, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wemoe.files import replacing_files
from wemoe.heads import Heads
from wemoe.merged_folders import STALE
from wemoe.model_card import CARD_FILE, may_write_card
from wemoe.pareto.charts import plot_front
from wemoe.pareto.fronts import Front, write_front_csv, write_front_json
from wemoe.routed_classes import RoutedModule
from wemoe.whole_models import write_routed

MODEL = "model"  # folder of the model inside that of the front


def write_front_folder(
    output: Path,
    model: RoutedModule,
    heads: Heads,
    base_folder: Path | None,
    fronts: Sequence[Front],
    summary: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write `model/`, `front.json`, `front.csv` and `front.png`.

    A new folder appears whole. In one that is there, files are replaced when all of the new ones are written, and a
    model card that somebody edited is kept.

    Args:
        output: the folder.
        model: which is steered by a preference.
        heads: by task, what is kept beside the model.
        base_folder: the base's, of which tokenizer and preprocessor files are carried over.
        fronts: the model's own first.
        summary: what `front.json` tells beside the fronts.
        recipe: the configuration, for the model card.
        metrics: numbers by name for the model card.

    Raises:
        OSError: the folder cannot be written.
        TypeError, ValueError: `heads` do not belong to the model, or a number is not finite.
    """
    keeps_card = not may_write_card(output / MODEL)
    with replacing_files(output, stale=tuple(f"{MODEL}/{pattern}" for pattern in STALE)) as staging:
        write_front_json(staging / "front.json", fronts, summary)
        write_front_csv(staging / "front.csv", fronts)
        plot_front(fronts, staging / "front.png")
        write_routed(staging / MODEL, model, heads, base_folder, recipe=recipe, metrics=metrics)
        if keeps_card:
            (staging / MODEL / CARD_FILE).unlink()
