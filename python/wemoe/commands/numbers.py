"""Whole numbers as they are typed on a command line."""

import re


def parse_numbers(text: str, option: str) -> list[int]:
    """Reads numbers: ``"8"``, ``"1-8"``, ``"1,3,5"`` or a mixture such as ``"1-3,8"``.

    Args:
        text: what was typed.
        option: after which, for messages.

    Raises:
        ValueError: anything else, or a range that runs backwards.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"{option} must be a number (8), a range (1-8) or a list (1,3,5); found {text!r}")
        numbers.extend(range(first, last + 1))
    return numbers
