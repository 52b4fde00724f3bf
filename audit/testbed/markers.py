"""Parts of a page that a command writes, between markers, so that commands do not overwrite each other's parts."""

from __future__ import annotations

import re


def replaced(text: str, name: str, content: str) -> str:
    """Return the page with `content` between the markers `name`. Raises ValueError when the page lacks them."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
    if not match:
        raise ValueError(f"the page has no part between <!-- {name} --> and <!-- /{name} -->")
    return text[: match.start(1)] + content.strip("\n") + "\n" + text[match.end(1) :]
