"""Make the corpus manifest: list every object under every corpus URL, hash and decode it, and keep it even when unreadable.

The manifest is Arrow record batches of `MANIFEST_SCHEMA`, stored as one Parquet file. Memory does not grow with the
pictures: at most `WINDOW` objects are in flight, and one digest and one URI are remembered for each distinct picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from audit import locations
from audit.corpus import images
from audit.corpus.images import ImageError, Pixels
from audit.corpus.manifest import MANIFEST_SCHEMA, StoredManifest, items, manifest_sha256, read_manifest, write_manifest
from audit.corpus.parts import CorpusParts, Parts
from audit.corpus.sources import ListedObject, Source, is_litter, open_source
from audit.errors import CorpusError
from audit.records import Item
from audit.spec.sections import CorpusEntry, CorpusLimits
from audit.storage.errors import SourceUnavailable, explain_source

__all__ = [
    "MANIFEST_SCHEMA", "StoredManifest", "fetch", "items", "manifest", "manifest_sha256", "read_manifest",
    "read_picture", "write_manifest",
]  # fmt: skip

log = logging.getLogger(__name__)
THREADS = 8  # requests in flight; decoding shares them
WINDOW = 2 * THREADS  # objects read ahead of the row that is written next
BATCH_ROWS = 500
_ITEM_FIELDS = tuple(field.name for field in dataclasses.fields(Item))

Progress = Callable[[int], None]


def manifest(
    entries: Sequence[CorpusEntry],
    limits: CorpusLimits,
    *,
    progress: Progress | None = None,
    skipped: list[str] | None = None,
    parts: Parts | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of `MANIFEST_SCHEMA`, one row for each object, streamed while the objects are listed and read.

    Entries come in order of (URL, role, concept), objects in order of URI inside an entry, whatever the order in the
    spec and however the threads run. `progress` is called with the number of rows so far. An object that cannot be
    used keeps its row with `error`; without entries there are no batches. Of equal pictures inside one role,
    all but the first carry `duplicate_of`. With `parts`, objects of an object store that have not changed since a run read them
    are not read again.

    An entry without objects is warned of and has no rows; whoever plans keeps the cases that it was to serve. Files that
    macOS and Windows leave in folders (`._picture.png`, `.DS_Store`, `Thumbs.db`, `desktop.ini`, all below `__MACOSX`) have
    no rows either: their URIs join `skipped`, and one warning counts them.

    Raises `CorpusError` before anything is read for entries that overlap inside one role or URLs that cannot be used;
    later for a folder that is missing, a file or closed, for entries that are all empty, and for storage that stops
    answering (`SourceUnavailable`): a manifest that silently misses objects would shrink the audit.
    """
    sources = _sources(entries)  # checked now, not at the first `next`
    return _batches(_rows(sources, limits, [] if skipped is None else skipped, parts), progress)


def _sources(entries: Sequence[CorpusEntry]) -> list[tuple[CorpusEntry, Source]]:
    sources = [(entry, open_source(entry.url)) for entry in entries]
    sources.sort(key=lambda pair: (pair[1].uri, pair[0].role, pair[0].concept))
    for (one, first), (other, second) in itertools.combinations(sources, 2):
        if one.role == other.role and (second.uri.rstrip("/") + "/").startswith(first.uri.rstrip("/") + "/"):
            raise CorpusError(
                f"two corpus entries with role {one.role!r} list the same objects "
                f"(concepts {one.concept!r} and {other.concept!r})",
                where=f"{first.uri} and {second.uri}",
                next_step="give each concept its own folder, and name each folder once",
            )
    return sources


def _rows(
    sources: list[tuple[CorpusEntry, Source]], limits: CorpusLimits, skipped: list[str], parts: Parts | None
) -> Iterator[dict[str, object]]:
    seen: dict[tuple[str, bytes], str] = {}
    empty: list[CorpusError] = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="corpus") as pool:
        for entry, source in sources:
            count = 0
            kept = parts.of(source.uri, limits) if parts is not None else None
            for item in _read_ahead(pool, source, entry, limits, skipped, kept):
                count += 1
                row: dict[str, object] = {name: getattr(item, name) for name in _ITEM_FIELDS}
                row["duplicate_of"] = None
                if item.pixel_sha256 is not None:
                    first = seen.setdefault((item.role, bytes.fromhex(item.pixel_sha256)), item.uri)
                    row["duplicate_of"] = first if first != item.uri else None
                yield row
            if kept is not None:
                kept.complete()
            if not count:
                empty.append(no_objects(source.uri))
    if skipped:
        log.warning(
            "%d files that macOS or Windows left in the corpus are skipped, such as %s", len(skipped), skipped[0]
        )
    if empty and len(empty) == len(sources):
        raise empty[0]
    for error in empty:
        log.warning("%s: %s", error.what, error.where)


def no_objects(uri: str) -> CorpusError:
    """Return the error for a corpus entry that was listed and is empty."""
    return CorpusError(
        "there are no objects under this corpus URL",
        where=uri,
        next_step="correct the URL, or upload the pictures there",
    )


def _read_ahead(
    pool: ThreadPoolExecutor,
    source: Source,
    entry: CorpusEntry,
    limits: CorpusLimits,
    skipped: list[str],
    parts: CorpusParts | None,
) -> Iterator[Item]:
    """Yield items in listing order, at most `WINDOW` of them being read at a time."""
    window: deque[tuple[ListedObject, Future[Item]]] = deque()

    def first() -> Item:
        """Return the oldest item of the window, when it has been read."""
        listed, future = window.popleft()
        item = future.result()
        if parts is not None:
            parts.add(listed, item)
        return item

    try:
        for listed in source.objects():
            if is_litter(listed.uri, source.uri):
                skipped.append(listed.uri)
                continue
            known = parts.known(listed, entry.role, entry.concept) if parts is not None else None
            window.append((listed, _done(known) if known else pool.submit(_examine, source, listed, entry, limits)))
            if len(window) >= WINDOW:
                yield first()
        while window:
            yield first()
    finally:
        for _, future in window:
            future.cancel()


def _done(item: Item) -> Future[Item]:
    future: Future[Item] = Future()
    future.set_result(item)
    return future


def _examine(source: Source, listed: ListedObject, entry: CorpusEntry, limits: CorpusLimits) -> Item:
    """Return the row of one object; only failures that concern every object are raised."""
    item = Item(listed.uri, entry.role, entry.concept, listed.size, None, None, None, None, None, listed.problem)
    if listed.problem is not None:
        return item
    if listed.size > limits.max_bytes:
        return dataclasses.replace(item, error=f"too many bytes: {listed.size}, the limit is {limits.max_bytes}")
    try:
        data = source.read(listed.uri)
    except FileNotFoundError:
        return dataclasses.replace(item, error="vanished while the manifest was made")
    except PermissionError:
        return dataclasses.replace(item, error="access denied")
    except SourceUnavailable:
        raise
    except (CorpusError, OSError) as error:
        reason = error.what if isinstance(error, CorpusError) else error.strerror or type(error).__name__
        return dataclasses.replace(item, error=f"unreadable: {locations.redact(reason)}")
    item = dataclasses.replace(
        item, size_bytes=len(data), byte_sha256=hashlib.sha256(data).hexdigest(), format=images.sniff(data)
    )
    try:
        pixels = images.decode(data, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    except ImageError as error:
        return dataclasses.replace(item, error=error.reason)
    height, width, _ = pixels.shape
    return dataclasses.replace(item, pixel_sha256=images.pixel_sha256(pixels), width=width, height=height)


def _batches(rows: Iterator[dict[str, object]], progress: Progress | None) -> Iterator[pa.RecordBatch]:
    buffer: list[dict[str, object]] = []
    for done, row in enumerate(rows, start=1):
        buffer.append(row)
        if progress is not None:
            progress(done)
        if len(buffer) == BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(buffer, schema=MANIFEST_SCHEMA)
            buffer = []
    if buffer:
        yield pa.RecordBatch.from_pylist(buffer, schema=MANIFEST_SCHEMA)


def fetch(item: Item, limits: CorpusLimits | None = None) -> Pixels:
    """Return the pixels of a manifest row, read again and checked against its byte hash; uint8, height x width x 3.

    `limits` must be those of the manifest (default: those of an empty spec). Raises `CorpusError` when the row has an
    error, or the object vanished or changed since the manifest; `SourceUnavailable` when the storage does not answer.
    """
    limits = limits or CorpusLimits()
    if item.error is not None or item.byte_sha256 is None:
        raise CorpusError(
            f"this corpus object cannot be used: {item.error or 'it has no hash'}",
            where=item.uri,
            next_step="replace or remove it, then start a new run: erasure-audit run",
        )
    data = _read_again(item.uri)
    if hashlib.sha256(data).hexdigest() != item.byte_sha256:
        raise _changed(item.uri, f"{len(data)} bytes with another hash, {item.size_bytes} were recorded")
    return images.decode(data, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)


def read_picture(uri: str, limits: CorpusLimits, pixel_sha256: str | None) -> Pixels:
    """Return the pixels of the object at `uri`, checked against the pixel hash that the manifest recorded.

    None stands for an object that the manifest could not read: it stays an `ImageError` even when somebody mends it,
    because nothing may start to count in the middle of a run. Otherwise raises `CorpusError` when the object vanished
    or shows other pixels than before. `SourceUnavailable` when the storage as a whole does not answer.
    """
    if pixel_sha256 is None:
        raise ImageError(_still_unreadable(uri, limits))
    pixels = images.decode(_read_again(uri), max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    if images.pixel_sha256(pixels) != pixel_sha256:
        raise _changed(uri, "it shows another picture")
    return pixels


def _still_unreadable(uri: str, limits: CorpusLimits) -> str:
    try:
        images.decode(_read_again(uri), max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    except SourceUnavailable:
        raise
    except ImageError as error:
        return error.reason
    except CorpusError as error:
        return error.what
    return "it could not be read when the run was planned; start a new run to count it"


def _read_again(uri: str) -> bytes:
    try:
        return open_source(uri).read(uri)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _changed(uri, "it is gone") from None
    except OSError as error:
        raise explain_source(error, uri) from None


def _changed(uri: str, how: str) -> CorpusError:
    return CorpusError(
        f"the object changed since the manifest: {how}",
        where=uri,
        next_step="restore the object, or start a new run: erasure-audit run",
    )
