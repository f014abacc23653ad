"""HTML from Python: every text is escaped, unless it was made here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

VOID = frozenset({"br", "meta", "col", "hr"})


class Html(str):
    """Text that is markup already."""


Content = str | int  # what is no `Html` is escaped


def escaped(content: Content) -> Html:
    """Markup as it is, and any other text with its special characters escaped."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def joined(parts: Iterable[Content]) -> Html:
    """Pieces of markup and text, one after the other."""
    return Html("".join(map(escaped, parts)))


def element(name: str, /, *children: Content, **attributes: str | int | float | bool | None) -> Html:
    """Make an element.

    Args:
        name: of the element.
        children: what stands in it.
        attributes: `class_` is class and `aria_label` is aria-label; None and False leave an attribute out, True gives
            one without a value.
    """
    text = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{text}>")
    return Html(f"<{name}{text}>{joined(children)}</{name}>")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def paragraph(*children: Content, class_: str | None = None) -> Html:
    """Make a paragraph."""
    return element("p", *children, class_=class_)


def section(name: str, title: str, *children: Content) -> Html:
    """Make a section with a heading, under a name that links can point to."""
    return element("section", element("h2", title), *children, id=name)


def details(summary: Content, *children: Content, is_open: bool = False) -> Html:
    """Make a part that is shown when its summary is chosen, and printed in any case."""
    return element("details", element("summary", summary), *children, open=is_open)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: what stands in it.
        is_best: whether it is the best of its column.
        heat: of a heat map, how strong its colour is: from -1 (blue) over 0 (none) to 1 (orange).
        class_: a class more.
    """

    content: Content
    is_best: bool = False
    heat: float | None = None
    class_: str | None = None

    def markup(self) -> Html:
        """The cell as an element."""
        classes = " ".join(name for name in ("best" if self.is_best else None, self.class_) if name)
        style = None
        if self.heat is not None:
            color = "231 111 32" if self.heat >= 0 else "49 110 204"
            style = f"background-color:rgb({color} / {70 * min(1.0, abs(self.heat)):.0f}%)"
        content = element("strong", self.content) if self.is_best else self.content
        return element("td", content, class_=classes or None, style=style)


@dataclass(frozen=True)
class Line:
    """A line of a table: its head, its cells, and a class for all of it."""

    head: Content
    cells: Sequence[Cell | Content]
    class_: str | None = None

    def markup(self) -> Html:
        """The line as an element."""
        cells = (cell.markup() if isinstance(cell, Cell) else element("td", cell) for cell in self.cells)
        return element("tr", element("th", self.head, scope="row"), *cells, class_=self.class_)


def table(caption: str, head: Sequence[Content], lines: Iterable[Line], class_: str | None = None) -> Html:
    """Make a table that can be scrolled sideways on a narrow page.

    Args:
        caption: what the table tells.
        head: of the columns, that of the lines' heads first.
        lines: its lines.
        class_: of the table.
    """
    first = element("tr", *(element("th", name, scope="col") for name in head))
    body = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", first),
        element("tbody", *(line.markup() for line in lines)),
        class_=class_,
    )
    return element("div", body, class_="scroll", role="region", aria_label=caption, tabindex=0)
