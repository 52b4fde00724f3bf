"""Read single pictures out of the journal's units."""

from __future__ import annotations

import functools
from typing import Protocol

from audit.storage.journal import Journal


class Purged(Exception):
    """The picture was there and was removed on purpose; its digest and its scores are kept."""


class Address(Protocol):
    """What names a picture: a generate unit, and the picture's row in it."""

    @property
    def unit_key(self) -> str:
        """The key of the unit."""

    @property
    def image_id(self) -> int:
        """The id of the row."""


class StoredPictures:
    """The pictures of a journal as PNG bytes. The unit that was read last is kept, so ask unit by unit."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unit = functools.lru_cache(maxsize=1)(self._read)

    def __call__(self, address: Address) -> bytes | None:
        """Return the bytes of a picture; None when its unit has none of it.

        Raises `Purged` for one that was removed on purpose, `JournalError` when the unit is absent or damaged.
        """
        known = self._unit(address.unit_key)
        if address.image_id in known and known[address.image_id] is None:
            raise Purged
        return known.get(address.image_id)

    def _read(self, unit_key: str) -> dict[int, bytes | None]:
        rows = self._journal.read("generate", unit_key, ["image_id", "image", "pixel_sha256"]).to_pylist()
        drawn = [row for row in rows if row["image"] or row["pixel_sha256"]]
        return {row["image_id"]: row["image"]["bytes"] if row["image"] else None for row in drawn}
