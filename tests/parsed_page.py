"""An HTML page taken apart: its elements in their order, its tables by caption, its text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "meta", "col", "hr"}


@dataclass
class Element:
    name: str
    attributes: dict
    children: list = field(default_factory=list)

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def every(self, name):
        """All elements of a name below this one."""
        inner = [child for child in self.children if isinstance(child, Element)]
        return [found for child in inner for found in ([child] if child.name == name else []) + child.every(name)]

    def having(self, **attributes):
        """All elements below this one with certain attributes."""
        return [found for found in self.everything() if attributes.items() <= found.attributes.items()]

    def everything(self):
        inner = [child for child in self.children if isinstance(child, Element)]
        return [found for child in inner for found in (child, *child.everything())]


class _Tree(HTMLParser):
    """Builds a tree, and refuses what is not closed where it should be."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(names) == len(set(names)), f"<{name}> has an attribute twice"
        element = Element(name, dict(attributes))
        self.open[-1].children.append(element)
        if name not in VOID:
            self.open.append(element)

    def handle_endtag(self, name):
        assert self.open[-1].name == name, f"</{name}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, text):
        self.open[-1].children.append(text)


def parse(page):
    """Parse a page; it must be well-formed."""
    tree = _Tree()
    tree.feed(page)
    tree.close()
    assert tree.open == [tree.root], "an element is not closed"
    return tree.root


def table(root, caption):
    """By the head of each line, by the head of each column, the cells of the table with a caption."""
    (found,) = [each for each in root.every("table") if each.every("caption")[0].text == caption]
    columns = [head.text for head in found.every("thead")[0].every("th")][1:]
    lines = found.every("tbody")[0].every("tr")
    return {line.every("th")[0].text: dict(zip(columns, line.every("td"), strict=True)) for line in lines}


def texts(lines):
    return {head: {column: cell.text for column, cell in cells.items()} for head, cells in lines.items()}
