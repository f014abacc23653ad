"""Small pictures of predicted classes: a collapse onto one class is seen at once."""

from __future__ import annotations

from collections.abc import Sequence

from wemoe.html_report.markup import Html, element
from wemoe.html_report.numbers import percent

HEIGHT = 20


def histogram(counts: Sequence[int]) -> Html:
    """Draw how often each class is predicted, a bar for each class, the most frequent one at full height."""
    total, most = sum(counts), max(counts, default=0)
    if not total:
        return Html("")
    heights = [round(HEIGHT * count / most, 1) for count in counts]
    bars = "".join(
        f"M{place} {HEIGHT}v-{height:g}h.8v{height:g}z" for place, height in enumerate(heights) if height > 0
    )
    told = (
        f"{sum(count > 0 for count in counts)} of {len(counts)} classes predicted, the most frequent for "
        f"{percent(most / total, 0)} % of the samples"
    )
    return element(
        "svg",
        element("title", told),
        element("path", d=bars),
        class_="histogram",
        viewBox=f"0 0 {len(counts)} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=told,
        style=f"width:{min(4.5, 0.45 * max(2, len(counts))):g}rem",
    )
