"""A page as a reader gets it: parsed, with its elements, their classes, and its words in order; and the strip of a run."""

from __future__ import annotations

import base64
import dataclasses
from html.parser import HTMLParser

from audit.report import html
from audit.report.embedding import Pictures
from audit.report.strips import Strip, strips
from audit.report.view import Index
from audit.verdict.results import RunResult
from tests.report import runs

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclasses.dataclass
class Element:
    """One element with everything in it."""

    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = dataclasses.field(default_factory=list)

    def words(self) -> str:
        """Its text on one line."""
        return " ".join(" ".join(self.texts()).split())

    def texts(self) -> list[str]:
        """Its pieces of text in order."""
        return [text for part in self.parts for text in ([part] if isinstance(part, str) else part.texts())]

    def all(self, tag: str, kind: str = "") -> list[Element]:
        """The elements within it of a tag, and of a class if one is named, in order."""
        inner = [part for part in self.parts if isinstance(part, Element)]
        return [
            one
            for part in inner
            for one in (*([part] if part.tag == tag and part.is_a(kind) else ()), *part.all(tag, kind))
        ]

    def is_a(self, kind: str) -> bool:
        return not kind or kind in self.attributes.get("class", "").split()

    def named(self, name: str) -> Element:
        """The element within it that has this id."""
        return next(one for one in self.everything() if one.attributes.get("id") == name)

    def pictures(self) -> list[bytes]:
        """The bytes of the pictures in it."""
        return [base64.b64decode(image.attributes["src"].partition(",")[2]) for image in self.all("img")]

    def everything(self) -> list[Element]:
        """The elements in it, in order."""
        inner = [part for part in self.parts if isinstance(part, Element)]
        return [one for part in inner for one in (part, *part.everything())]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag, f"unbalanced </{tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parse(text: str) -> Element:
    """The whole page."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    (root,) = parser.open  # every other was closed
    return root


def rendered(run: RunResult, read: Pictures | None = runs.picture, *, show_sensitive: bool = False) -> Element:
    """The page of a run."""
    return parse(html.render(run, read, show_sensitive=show_sensitive))


def strip_of(run: RunResult, read: Pictures = runs.picture, *, show_sensitive: bool = False) -> Strip:
    """The strip of a run of one concept."""
    (strip,) = strips(Index(run), read, show_sensitive=show_sensitive).values()
    return strip


def with_case(run: RunResult, **changes: object) -> RunResult:
    """The run with changes to its pictured case."""
    (case,) = run.pictured
    return dataclasses.replace(run, pictured=(dataclasses.replace(case, **changes),))  # type: ignore[arg-type]
