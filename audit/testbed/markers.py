"""Parts of a page that a command writes, between markers, so that commands do not overwrite each other's parts."""

from __future__ import annotations

import re

ERASERS = "erasers-table"
GUARDS = "guards-table"
BENCHMARK = "benchmark-table"


def replaced(text: str, name: str, content: str) -> str:
    """The page with `content` between the markers `name`. Raises ValueError when the page lacks them."""
    found = _pattern(name).search(text)
    if not found:
        raise ValueError(f"the page has no part between <!-- {name} --> and <!-- /{name} -->")
    return text[: found.start(1)] + content.strip("\n") + "\n" + text[found.end(1) :]


def carry_over(old: str, new: str, name: str) -> str:
    """The new page with the part `name` of the old one, where both have it."""
    found = _pattern(name).search(old)
    return replaced(new, name, found.group(1)) if found and _pattern(name).search(new) else new


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", re.S)
