"""Vocabularies: which number a tokenizer's files give to each token, read without the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Return the number of each token; None where a folder has no vocabulary that is text.

    `tokenizer.json` comes first, then the lists of tokens of older tokenizers. Numbers of equal tokens are the last.

    Raises:
        ValueError: a file is damaged.
    """
    for name, read in (("tokenizer.json", _tokenizer), ("vocab.txt", _lines), ("vocab.json", _mapping)):
        file = folder / name
        if file.is_file():
            try:
                return read(file.read_text(encoding="utf-8"))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{str(file)!r} must be a tokenizer's; found: {error}") from error
    return None


def _tokenizer(text: str) -> dict[str, int]:
    described = json.loads(text)
    found = described["model"]["vocab"]
    added = {str(token["content"]): int(token["id"]) for token in described.get("added_tokens") or ()}
    if isinstance(found, list):  # of a unigram model: tokens and their scores
        return {token: number for number, (token, _) in enumerate(found)} | added
    return {str(token): int(number) for token, number in found.items()} | added


def _lines(text: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(text.rstrip("\n").split("\n"))}


def _mapping(text: str) -> dict[str, int]:
    found = json.loads(text)
    return {str(token): int(number) for token, number in found.items()}
