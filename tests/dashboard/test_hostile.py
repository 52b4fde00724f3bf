"""Nothing that an index holds is markup on a page: it does not run, load, turn the text around or go on for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import duckdb
import pytest

from audit.dashboard.building import build
from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.dashboard.site import PAGES, answer
from audit.index.copies import open_copy
from tests.dashboard import hostile
from tests.dashboard.conftest import NOW
from tests.dashboard.html import Element, parse
from tests.dashboard.pixels import picture

TAGS = {
    "html", "head", "meta", "title", "link", "body", "a", "header", "p", "h1", "h2", "h3", "nav", "ul", "li", "main", "section",
    "div", "span", "strong", "form", "label", "select", "option", "button", "input", "details", "summary", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "figure", "figcaption", "img", "footer", "code", "root",
    "svg", "g", "line", "path", "circle", "rect", "polygon", "polyline", "text", "desc", "use", "defs",
}  # fmt: skip
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\x1b\x07\x7f\x00")
DRAWN = ("title", "desc")  # of a figure: for those who do not see it
LONGEST = 2100  # characters of one text: a prompt


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_copy(hostile.write(tmp_path_factory.mktemp("hostile")))
    yield found
    found.close()


def elements(parent: Element) -> Iterator[Element]:
    yield parent
    for child in parent.children:
        if isinstance(child, Element):
            yield from elements(child)


def require_harmless(html: str) -> Element:
    page = parse(html)
    assert not TURNING & set(html)
    for element in elements(page):
        assert element.tag in TAGS
        for name, value in element.attributes.items():
            assert (
                not name.startswith("on") and name not in ("style", "srcdoc", "action-xhtml")
            ) or element.tag == "svg"
            if name in ("href", "src", "action"):
                assert urlsplit(value).scheme in ("", "data") and not value.startswith("//")
        for text in element.children:
            assert not isinstance(text, str) or len(text) <= LONGEST or element.tag in DRAWN, element.tag
    assert len(page.all("head")[0].all("title")[0].text) < 200
    return page


def test_every_page_that_can_be_reached_is_harmless(con: duckdb.DuckDBPyConnection) -> None:
    context = Context(con, NOW, LiveLinks(), picture)
    seen: dict[tuple[str, str], int] = {}
    waiting = ["./"]
    while waiting:
        href = waiting.pop()
        parts = urlsplit(href)
        name = parts.path.removeprefix("./") or "overview"
        if (name, parts.query) in seen or [n for n, _ in seen].count(name) >= 3:
            continue
        found = answer(context, name, dict(parse_qsl(parts.query)))
        assert found.status == 200, href[:200]
        seen[name, parts.query] = len(found.html)
        for link in require_harmless(found.html).all("a"):
            if not link.attributes["href"].startswith("#"):
                waiting.append(link.attributes["href"])
    assert {name for name, _ in seen} == set(PAGES)
    assert max(seen.values()) < 3_000_000


def test_what_is_not_there_is_named_harmlessly(con: duckdb.DuckDBPyConnection) -> None:
    context = Context(con, NOW, LiveLinks())
    for text in (hostile.MARKUP, hostile.TURNED, hostile.LONG, hostile.FORMULA, "\ud800"):
        for name, query in (
            ("run", {"run": text}),
            ("overview", {"system": text + "x"}),
            (text, {}),
            ("runs", {text: text}),
        ):
            found = answer(context, name, query)
            assert found.status == 404 and len(found.html) < 8000
            require_harmless(found.html.encode(errors="strict").decode())


@pytest.mark.slow
def test_a_static_site_of_it_is_harmless(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    built = build(con, tmp_path / "site", NOW, index="i", pictures=picture)
    for path in built.folder.iterdir():
        assert path.name.isascii() and len(path.name) < 120
        if path.suffix == ".html":
            require_harmless(path.read_text())
