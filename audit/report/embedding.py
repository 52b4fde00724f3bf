"""Put pictures into a report as data URIs within a number of bytes; sensitive ones blurred, and withheld when that fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from audit.report import pictures
from audit.storage.pictures import Address, Purged

Pictures = Callable[[Address], bytes | None]
ENCODED = 4 / 3  # characters of a data URI for each byte
LEAST = 1_500  # bytes that a picture may have at least, however many there are


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Makes data URIs of a report's pictures, each of at most `edge` pixels and, unless it is blurred, about `most` bytes."""

    read: Pictures
    edge: int = pictures.EDGE
    most: int | None = None

    @classmethod
    def sharing(cls, read: Pictures, count: int, room: int, edges: tuple[int, ...] = (pictures.EDGE,)) -> Embedder:
        """Return one for `count` pictures that share `room` bytes, of the first of `edges` at which each has enough."""
        most = max(LEAST, room // max(1, count))
        fitting = (edge for edge in edges if edge * edge <= 4 * most)
        return cls(read, next(fitting, edges[-1]), most)

    def __call__(self, address: Address, *, hide: bool) -> tuple[str | None, str | None]:
        """Return a data URI, or None and the word for the placeholder. Whatever fails, no original bytes pass through here."""
        try:
            data = self.read(address)
        except Purged:
            return None, "purged"
        except Exception:  # journal, object store and Parquet reader: one picture is not worth the report
            return None, "unreadable"
        if data is None:
            return None, "missing"
        try:
            jpeg = pictures.blurred_thumbnail(data) if hide else pictures.thumbnail(data, self.edge, self.most)
            return pictures.data_uri(jpeg), None
        except Exception:  # Pillow raises nearly anything on hostile bytes; the original must never be shown instead
            return None, "withheld" if hide else "unreadable"
