"""Addresses of pages: with a query on a server, as file names in a folder. Both are relative, so that either can be moved."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote, urlencode

Query = Mapping[str, str]
HOME = "overview"
_SLUG, _LONGEST = re.compile(r"[^a-z0-9]+"), 60


def cleaned(query: Query) -> dict[str, str]:
    """Return the fields of a query that have a value, sorted by name."""
    return {name: value for name, value in sorted(query.items()) if value}


class Links(Protocol):
    """How pages name each other."""

    @property
    def live(self) -> bool:
        """Whether a server answers the pages, so that their forms work."""

    @property
    def root(self) -> str:
        """The way from this page to the folder of all pages: empty, or one or more `../`."""

    def to(self, page: str, query: Query) -> str:
        """Return the address of a page."""


class LiveLinks:
    """Addresses on a server."""

    live = True

    def __init__(self, depth: int = 0) -> None:
        """Name the pages as seen from a page that lies `depth` folders below them."""
        self.root = "../" * depth

    def to(self, page: str, query: Query) -> str:
        """Return the page's name with its query."""
        name = self.root + quote(page) if page != HOME else self.root or "./"
        return f"{name}?{urlencode(cleaned(query))}" if cleaned(query) else name


class StaticLinks:
    """File names in one folder. `wanted` collects every page that was linked, in the order in which they were."""

    live, root = False, ""

    def __init__(self) -> None:
        self.wanted: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}

    def to(self, page: str, query: Query) -> str:
        """Return the page's file name, the same for the same query in every build."""
        items = tuple(cleaned(query).items())
        return self.wanted.setdefault((page, items), file_name(page, dict(items)))


def file_name(page: str, query: Query) -> str:
    """Return the name of a page's file: readable, and one for each query."""
    query = cleaned(query)
    if not query:
        return "index.html" if page == HOME else f"{page}.html"
    slug = _SLUG.sub("-", "-".join(query.values()).lower()).strip("-")[:_LONGEST].strip("-")
    digest = hashlib.sha256("\0".join(part for item in query.items() for part in item).encode()).hexdigest()[:12]
    return f"{'-'.join(filter(None, (page, slug, digest)))}.html"
