"""What was read of a corpus in an object store, kept below the storage root: a killed listing goes on, and the next run reads
only what is new.

    corpora/{corpus}/{run_id}.{number}.parquet    objects in order of URI, with the tags by which the store knows their content
    corpora/{corpus}/{run_id}.complete            written last

`corpus` is a digest of the URL, of the limits, and of the code that decodes pictures. An object is taken over unread when its
URI, tag and size are those of before. A picture is checked against its hash whenever it is used, so that a store whose tags
lie costs cases and changes no number.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit import identity
from audit.corpus.sources import ListedObject
from audit.files import Document
from audit.records import Item
from audit.spec.sections import CorpusLimits
from audit.storage.objects import ObjectStore

FOLDER = "corpora"
PART_ROWS = 2000  # objects of one part: at most so many are read again after a kill
_COMPLETE, _PART = ".complete", ".parquet"
_KEPT = ("size_bytes", "byte_sha256", "pixel_sha256", "width", "height", "format", "error")
_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("tag", pa.string()),
        ("listed_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("byte_sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts that a run keeps, of every corpus that it lists."""

    store: ObjectStore
    run_id: str

    def of(self, uri: str, limits: CorpusLimits) -> CorpusParts:
        """Return the parts of one corpus, those of its last complete listing among them."""
        code = {**identity.source_digests(["corpus.images"]), "pillow": importlib.metadata.version("pillow")}
        corpus = identity.key({"uri": uri, "limits": limits.model_dump(mode="json"), "code": code})
        return CorpusParts(self.store, f"{FOLDER}/{corpus}", self.run_id)


class CorpusParts:
    """The parts of one corpus: what is known of its objects, which are asked for in order of URI, and what is read now."""

    def __init__(self, store: ObjectStore, folder: str, run_id: str) -> None:
        self._store, self._folder, self._run_id = store, folder, run_id
        listed = store.listed(folder)
        complete = [entry for entry in listed if entry.name.endswith(_COMPLETE)]
        complete.sort(key=lambda entry: (entry.written is not None and entry.written.timestamp(), entry.name))
        last = [entry.name.removesuffix(_COMPLETE) for entry in complete[-1:]]
        names = sorted(entry.name for entry in listed)
        self._earlier = [name for name in names if _owner(name) != run_id]
        self._known = [
            _Cursor(_rows(store, folder, [name for name in names if _owner(name) == owner and name.endswith(_PART)]))
            for owner in dict.fromkeys([run_id, *last])
        ]
        self._waiting: list[Document] = []
        self._number = 0

    def known(self, listed: ListedObject, role: str, concept: str) -> Item | None:
        """Return the row of an object that has not changed since it was read; None for every other."""
        if listed.tag is None or listed.problem is not None:
            return None
        for cursor in self._known:
            row = cursor.at(listed.uri)
            if row is not None and (row["tag"], row["listed_bytes"]) == (listed.tag, listed.size):
                return Item(listed.uri, role, concept, **{name: row[name] for name in _KEPT})
        return None

    def add(self, listed: ListedObject, item: Item) -> None:
        """Keep the row of an object whose bytes were read."""
        if listed.tag is None or item.byte_sha256 is None:
            return
        kept = {name: getattr(item, name) for name in _KEPT}
        self._waiting.append({"uri": listed.uri, "tag": listed.tag, "listed_bytes": listed.size, **kept})
        if len(self._waiting) == PART_ROWS:
            self._write()

    def complete(self) -> None:
        """Keep what is left, mark the listing complete, and remove those of earlier runs, which it replaces."""
        if self._waiting:
            self._write()
        if not self._number:
            return
        self._store.put(f"{self._folder}/{self._run_id}{_COMPLETE}", b"complete\n")
        for name in self._earlier:
            self._store.delete(f"{self._folder}/{name}")

    def _write(self) -> None:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._waiting, _SCHEMA), sink, compression="zstd")
        self._store.put(f"{self._folder}/{self._run_id}.{self._number:06d}{_PART}", sink.getvalue())
        self._number += 1
        self._waiting = []


class _Cursor:
    """Rows in order of URI, of which one part is in memory at a time."""

    def __init__(self, rows: Iterator[Document]) -> None:
        self._rows = rows
        self._row: Document | None = next(rows, None)

    def at(self, uri: str) -> Document | None:
        """Return the row of `uri`, which is greater than the one asked for before; None when there is none."""
        while self._row is not None and self._row["uri"] < uri:
            self._row = next(self._rows, None)
        return self._row if self._row is not None and self._row["uri"] == uri else None


def _owner(name: str) -> str:
    """Return the run that wrote a file."""
    return name.removesuffix(_COMPLETE) if name.endswith(_COMPLETE) else name.removesuffix(_PART).rpartition(".")[0]


def _rows(store: ObjectStore, folder: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of parts; those after one that is damaged or gone are read from the corpus again."""
    for name in names:
        try:
            table = pq.read_table(pa.BufferReader(store.get(f"{folder}/{name}")))
            yield from table.cast(_SCHEMA).to_pylist()
        except (FileNotFoundError, pa.ArrowException, ValueError):
            return
