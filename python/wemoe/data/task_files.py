"""A task from its files: rows are read, labels numbered, texts tokenized and images found."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

from wemoe.data.batches import Labelled, Samples, Task
from wemoe.data.labels import are_told, distinct_names, label_numbers
from wemoe.data.readers import Reader
from wemoe.data.tables import Row, read_rows
from wemoe.task_config import Part, TaskConfig

LABELLED: tuple[Part, ...] = ("train", "validation", "test")
ALL_PARTS: tuple[Part, ...] = (*LABELLED, "unlabeled")


def load_task(
    name: str,
    config: TaskConfig,
    reader: Reader,
    num_labels: int,
    head_names: Sequence[str] = (),
    parts: Collection[Part] = ALL_PARTS,
) -> Task:
    """Load a task's data.

    Args:
        name: of the task, for messages.
        config: which files there are, and how they are read.
        reader: makes samples of rows.
        num_labels: number of outputs of the task's head.
        head_names: what the head's own configuration calls the labels.
        parts: which are loaded, as far as the task has them.

    Returns:
        The task; what is adapted on is `config.adapts_on`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or damaged, or a row is not what it must be; the message tells file, line and
            column.
    """
    wanted = _parts_to_read(config, head_names, parts)
    rows = {part: read_rows(files) for part in wanted if (files := _files(config, part)) is not None}
    names = _label_names(name, config, head_names, num_labels, rows)
    labelled = {
        part: Labelled(reader.read(rows[part]), label_numbers(rows[part], config.label, names, num_labels))
        for part in LABELLED
        if part in parts and part in rows
    }
    return Task(
        num_labels=num_labels,
        train=labelled.get("train"),
        validation=labelled.get("validation"),
        unlabeled=_unlabeled(config, reader, rows, labelled) if "unlabeled" in parts else None,
        test=labelled.get("test"),
        pooling=config.pooling or ("mean" if config.image is None else "pooler"),
        batch_size=config.batch_size,
    )


def _parts_to_read(config: TaskConfig, head_names: Sequence[str], parts: Collection[Part]) -> set[Part]:
    """Return the parts whose rows are needed; all labelled ones where the labels' names are to be found in them."""
    wanted = set(parts)
    if "unlabeled" in wanted and config.adapts_on is not None:
        wanted.add(config.adapts_on)
    if config.labels is None and not are_told(head_names):
        wanted.update(LABELLED)
    return wanted


def _files(config: TaskConfig, part: Part) -> tuple[Path, ...] | None:
    files: tuple[Path, ...] | None = getattr(config, part)
    return files


def _unlabeled(
    config: TaskConfig, reader: Reader, rows: dict[Part, list[Row]], labelled: dict[Part, Labelled]
) -> Samples | None:
    part = config.adapts_on
    if part is None:
        return None
    return labelled[part].samples if part in labelled else reader.read(rows[part])


def _label_names(
    name: str, config: TaskConfig, head_names: Sequence[str], num_labels: int, rows: dict[Part, list[Row]]
) -> tuple[str, ...]:
    """Return the names of the labels in the order of the head's outputs; none where the labels are numbers."""
    if config.labels is not None:
        if len(config.labels) != num_labels:
            raise ValueError(
                f"tasks.{name}.labels must be as many as the head has outputs, {num_labels}; found {len(config.labels)}"
            )
        return config.labels
    if are_told(head_names):
        return tuple(head_names)
    found = distinct_names([row for part in LABELLED for row in rows.get(part, [])], config.label)
    if not found:
        return ()
    if len(found) != num_labels:
        raise ValueError(
            f"tasks.{name}.labels must name the head's {num_labels} labels in its order; it is missing, the head does "
            f"not know them, and the data have {len(found)}: {', '.join(found[:10])}"
        )
    warnings.warn(
        f"nobody says in which order the head of task {name!r} has its labels: the sorted one is taken, "
        f"{', '.join(found)}. Name them under tasks.{name}.labels",
        stacklevel=2,
    )
    return found
