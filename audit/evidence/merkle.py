"""The hash tree of RFC 9162, section 2.1: one digest that names every entry of a list, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(entries: Sequence[bytes]) -> str:
    """Return the hex SHA-256 at the root of the tree over `entries`; of no entries, that of nothing.

    Leaves and nodes are told apart by their first byte, so no entry can pass for a subtree.
    """
    level = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2])]  # noqa: B905
        level = pairs + level[len(pairs) * 2 :]  # an odd one out moves up as it is
    return level[0].hex()
