"""What a reader sees of a page: its text, tables and links, taken from the HTML by a real parser."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "hr"}


@dataclasses.dataclass
class Element:
    """An element with its attributes, its children, and the text among them."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Every element below with this tag, and these words among its attributes (`cls` for class)."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.replace("cls", "class"): value for name, value in attributes.items()}
                if child.tag == tag and all(v in child.attributes.get(n, "").split(" ") for n, v in wanted.items()):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """The page as a tree; AssertionError where elements are not closed in order."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == [parser.root], f"<{parser.open[-1].tag}> is never closed"
    return parser.root


def rows(table: Element) -> list[list[str]]:
    """The text of a table's cells, without its header."""
    (body,) = table.all("tbody")
    return [[c.text for c in row.children if isinstance(c, Element)] for row in body.all("tr")]
