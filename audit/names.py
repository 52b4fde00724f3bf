"""Compare names, however a file or a keyboard spelled them."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """Return `name` in composed Unicode (NFC). macOS, some editors and some data sets write decomposed letters (NFD)."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """Return `name` as it is compared where case does not count: composed, without case, without spaces around it."""
    return composed(unicodedata.normalize("NFD", name).casefold()).strip()
