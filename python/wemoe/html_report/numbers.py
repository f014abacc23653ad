"""Numbers and lists in words, as tables and sentences of the report have them."""

from __future__ import annotations

from collections.abc import Sequence

from wemoe.html_report.markup import Html, element, joined

MISSING = "–"
WORDS = ("no", "one")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return MISSING if value is None else f"{100 * value:.{digits}f}"


def with_spread(mean: float | None, spread: float | None) -> Html:
    """A mean in percent, with its spread below it where there is one."""
    if spread is None or mean is None:
        return Html(percent(mean))
    return joined([percent(mean), " ", element("small", f"±{percent(spread)}")])


def points(value: float, other: float) -> str:
    """How far one share is from another: "3.1 points above"."""
    difference = round(100 * (value - other), 1)
    if difference == 0:
        return "as high as"
    amount = f"{abs(difference):.1f} point{'' if abs(difference) == 1 else 's'}"
    return f"{amount} {'above' if difference > 0 else 'below'}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "no task", "one task", "8 tasks"."""
    amount = WORDS[number] if number < 2 else f"{number:,}"
    return f"{amount} {noun if number < 2 else plural or noun + 's'}"


def listed(names: Sequence[object]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    texts = [str(name) for name in names]
    return " and ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def megabytes(number: int | None) -> str:
    """Bytes in megabytes."""
    return MISSING if number is None else f"{number / 10**6:.0f}"


def capitalised(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]
