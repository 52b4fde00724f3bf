"""List the units of one kind below a storage root, in one pass over its folders."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from audit.storage.objects import ListedEntry, ObjectStore
from audit.storage.threads import THREADS, in_threads

KEY = re.compile(r"[0-9a-f]{64}")
_UNIT_SUFFIX = re.compile(r"parquet|failed\.parquet|[0-9a-f]{16}\.safetensors")
_SMALLEST_PARQUET = 12  # two magic words and a footer length: anything shorter is a torn write


@dataclasses.dataclass(frozen=True)
class Listing:
    """The units of one kind: `complete`, and `failed` ones that have no complete file yet.

    `stamps` of the complete ones' files differ once a file was written anew, as after a damaged one was deleted; `written` is
    when that was, as the storage says.
    """

    complete: frozenset[str]
    failed: frozenset[str]
    stamps: Mapping[str, str]
    written: Mapping[str, dt.datetime]
    strange: tuple[str, ...] = ()  # files below the folder that no unit has


def listed(store: ObjectStore, kind: str) -> Listing:
    """List the complete and the failed units of `kind`. Raises `JournalError`."""
    complete: dict[str, str] = {}
    written: dict[str, dt.datetime] = {}
    failed: set[str] = set()
    strange: list[str] = []
    folder = f"units/{kind}"
    shards = [f"{folder}/{name}" for name, _ in store.entries(folder)]
    with ThreadPoolExecutor(THREADS) as pool:
        for shard, entries in zip(shards, pool.map(store.listed, shards), strict=True):
            for entry in entries:
                key, _, suffix = entry.name.partition(".")
                known = KEY.fullmatch(key) and _UNIT_SUFFIX.fullmatch(suffix) and shard.endswith(f"/{key[:2]}")
                if not known:
                    strange.append(f"{shard}/{entry.name}")
                if not is_whole(entry.size) or not KEY.fullmatch(key):
                    continue
                if suffix == "parquet":
                    complete[key] = entry.stamp
                    written |= {key: entry.written} if entry.written else {}
                elif suffix == "failed.parquet":
                    failed.add(key)
                    if entry.written is not None:
                        written.setdefault(key, entry.written)
    return Listing(frozenset(complete), frozenset(failed - complete.keys()), complete, written, tuple(strange))


def with_unlisted(store: ObjectStore, kind: str, listing: Listing, planned: Iterable[str]) -> Listing:
    """Return the listing and those of the `planned` units that it does not show complete although they are.

    An object store may answer with a listing older than its objects, so these units are asked for by name. A file system
    is not asked. Raises `JournalError`.
    """
    lacking = [] if store.local else [key for key in planned if key not in listing.complete]
    complete: dict[str, str] = {}
    written: dict[str, dt.datetime] = {}
    failed: set[str] = set()
    for key, suffix, entry in in_threads(lambda key: (key, *_asked(store, kind, key)), lacking):
        if entry is None:
            continue
        if suffix == "parquet":
            complete[key] = entry.stamp
        else:
            failed.add(key)
        written |= {key: entry.written} if entry.written else {}
    if not complete and failed <= listing.failed:
        return listing
    return dataclasses.replace(
        listing,
        complete=listing.complete | complete.keys(),
        failed=(listing.failed | failed) - complete.keys(),
        stamps={**listing.stamps, **complete},
        written={**listing.written, **written},
    )


def _asked(store: ObjectStore, kind: str, key: str) -> tuple[str, ListedEntry | None]:
    """Return the suffix and the entry of a unit's whole file, the complete one before the failed one; None without one."""
    for suffix in ("parquet", "failed.parquet"):
        entry = store.entry(f"units/{kind}/{key[:2]}/{key}.{suffix}")
        if entry is not None and is_whole(entry.size):
            return suffix, entry
    return "parquet", None


def is_whole(size: int | None) -> bool:
    """Return whether a Parquet file of `size` bytes can be a whole one."""
    return size is not None and size >= _SMALLEST_PARQUET
