"""An HTML page as a tree, by the parser of the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "img", "input", "link", "meta", "path"}


@dataclass
class Node:
    """An element: its attributes, and its texts and elements in order."""

    name: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def nodes(self) -> Iterator[Node]:
        """Yield this element and all elements in it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.nodes()

    def all(self, name: str, class_: str = "") -> list[Node]:
        """Return the elements of a name, and of a class if one is given."""
        return [
            node
            for node in self.nodes()
            if node.name == name
            and (not class_ or class_ in node.attributes.get("class", "").split())
        ]

    def one(self, name: str, **attributes: str) -> Node:
        """Return the only element of a name that has these attributes."""
        (found,) = [
            node
            for node in self.all(name)
            if all(node.attributes.get(key) == value for key, value in attributes.items())
        ]
        return found

    def table(self, caption: str) -> list[list[str]]:
        """Return the texts of the cells of the table with a caption, the heads first."""
        (found,) = [t for t in self.all("table") if t.one("caption").text == caption]
        rows = [[c.text for c in row.nodes() if c.name in ("th", "td")] for row in found.all("tr")]
        assert len({len(row) for row in rows}) == 1
        return rows


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1].name == tag, f"{tag} ends inside of {self.open[-1].name}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse_page(text: str) -> Node:
    """Return the root of a page. Raises: AssertionError if its elements are not nested."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root
