"""A task from its data: labels are numbered, texts tokenized, and images are left where they are."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

from wemoe.data.batches import Labelled, Samples, Task
from wemoe.data.labels import are_told, label_numbers
from wemoe.data.parts import ALL_PARTS, LABELLED, Found, find_parts, names_in_rows, own_names
from wemoe.data.readers import Reader
from wemoe.task_config import Part, TaskConfig


def load_task(
    name: str,
    config: TaskConfig,
    reader: Reader,
    num_labels: int,
    head_names: Sequence[str] = (),
    parts: Collection[Part] = ALL_PARTS,
    found: dict[Part, Found] | None = None,
) -> Task:
    """Load a task's data.

    Args:
        name: of the task, for messages.
        config: which data there are, and how they are read.
        reader: makes samples of rows.
        num_labels: number of outputs of the task's head.
        head_names: what the head's own configuration calls the labels.
        parts: which are loaded, as far as the task has them.
        found: what `find_parts` has found for these parts, where it was asked before.

    Returns:
        The task; what is adapted on is `config.adapts_on`.

    Raises:
        ImportError: a data set is named, and `datasets` is not installed.
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or damaged, or a row is not what it must be; the message tells file, line and
            column.
    """
    if found is None:
        knows_labels = config.labels is not None or are_told(head_names)
        found = find_parts(name, config, parts, knows_labels=knows_labels)
    names = _label_names(name, config, head_names, num_labels, found)
    labelled = {
        part: Labelled(found[part].samples(reader), label_numbers(found[part].rows, config.label, names, num_labels))
        for part in LABELLED
        if part in parts and part in found
    }
    return Task(
        num_labels=num_labels,
        train=labelled.get("train"),
        validation=labelled.get("validation"),
        unlabeled=_unlabeled(config, reader, found, labelled) if "unlabeled" in parts else None,
        test=labelled.get("test"),
        pooling=config.pooling or ("mean" if config.image_column is None else "pooler"),
        batch_size=config.batch_size,
    )


def _unlabeled(
    config: TaskConfig, reader: Reader, found: dict[Part, Found], labelled: dict[Part, Labelled]
) -> Samples | None:
    part = config.adapts_on
    if part is None:
        return None
    return labelled[part].samples if part in labelled else found[part].samples(reader)


def _label_names(
    name: str, config: TaskConfig, head_names: Sequence[str], num_labels: int, found: dict[Part, Found]
) -> tuple[str, ...]:
    """Return the names of the labels in the order of the head's outputs; none where the labels are numbers."""
    told = _told_names(name, config, head_names, num_labels)
    own = own_names(found)
    if own:
        return _agreed(name, told, own, num_labels)
    if told:
        return told
    names = names_in_rows(found, config.label)
    if not names:
        return ()
    if len(names) != num_labels:
        raise ValueError(
            f"tasks.{name}.labels must name the head's {num_labels} labels in its order; it is missing, the head does "
            f"not know them, and the data have {len(names)}: {', '.join(names[:10])}"
        )
    warnings.warn(
        f"nobody says in which order the head of task {name!r} has its labels: the sorted one is taken, "
        f"{', '.join(names)}. Name them under tasks.{name}.labels",
        stacklevel=2,
    )
    return names


def _told_names(name: str, config: TaskConfig, head_names: Sequence[str], num_labels: int) -> tuple[str, ...]:
    if config.labels is None:
        return tuple(head_names) if are_told(head_names) else ()
    if len(config.labels) != num_labels:
        raise ValueError(
            f"tasks.{name}.labels must be as many as the head has outputs, {num_labels}; found {len(config.labels)}"
        )
    return config.labels


def _agreed(name: str, told: tuple[str, ...], own: tuple[str, ...], num_labels: int) -> tuple[str, ...]:
    """Return the order of names that the data give themselves: by the same words, else number by number."""
    if set(own) <= set(told):
        return told
    if len(own) != num_labels:
        raise ValueError(
            f"tasks.{name}.labels must be those of the data, which have {len(own)}: {', '.join(own[:10])}; "
            f"the head has {num_labels}"
        )
    return own
