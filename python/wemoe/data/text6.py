"""The frozen pack: six text tasks, each in four disjoint parts (`LICENSES.md` beside it tells sources and licences).

| task | text | labels |
|---|---|---|
| movies | snippet of a film review | negative, positive |
| amazon | snippet of a product review | negative, positive |
| supersense | definition of a noun | WordNet's 25 noun classes |
| hypernym | two nouns with definitions | second is the first's hypernym, sister, unrelated |
| icd | description of a diagnosis | 21 chapters of ICD-10-CM |
| pos | a word and an example of its use | noun, verb, adjective, adverb |

Per task 1,500 training, 300 validation, 1,000 unlabeled and 600 test texts; amazon has 1,274, 273, 988 and 442.
`tools/cut_text_pack.py` cut the pack from its sources.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACK = Path(__file__).with_name("text6.json.xz")
SHA256 = "c20b8e0a9f8193ec70fb402e2cf3ea439efdac096806e4f63e26dd1b544e89db"
TASKS = ("movies", "amazon", "supersense", "hypernym", "icd", "pos")

Text = str | tuple[str, str]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, or pairs of texts, with their labels' numbers."""

    texts: tuple[Text, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class TextTask:
    """One task: the names of its labels and its four parts, no two of which share a text."""

    name: str
    label_names: tuple[str, ...]
    train: LabelledTexts
    validation: LabelledTexts
    unlabeled: tuple[Text, ...]
    test: LabelledTexts


def load(path: str | os.PathLike[str] = PACK, sha256: str = SHA256) -> dict[str, TextTask]:
    """Load the six tasks by name.

    Args:
        path: the pack's file.
        sha256: what the file's sha256 must be.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"the text pack {str(path)!r} is damaged: its sha256 must be {sha256}, found {found}. "
            "Install the package again, or cut the pack anew with tools/cut_text_pack.py."
        )
    tasks: dict[str, dict[str, Any]] = json.loads(lzma.decompress(content))["tasks"]
    return {name: _task(name, parts) for name, parts in tasks.items()}


def _task(name: str, parts: dict[str, Any]) -> TextTask:
    return TextTask(
        name=name,
        label_names=tuple(parts["label_names"]),
        train=_labelled(parts["train"]),
        validation=_labelled(parts["validation"]),
        unlabeled=_texts(parts["unlabeled"]),
        test=_labelled(parts["test"]),
    )


def _labelled(part: dict[str, Any]) -> LabelledTexts:
    return LabelledTexts(_texts(part), tuple(part["labels"]))


def _texts(part: dict[str, Any]) -> tuple[Text, ...]:
    return tuple(text if isinstance(text, str) else (text[0], text[1]) for text in part["texts"])
