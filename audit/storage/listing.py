"""List the units of one kind below a storage root, in one pass over its folders."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from audit.storage.objects import ObjectStore
from audit.storage.threads import THREADS

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


def is_whole(size: int | None) -> bool:
    """Return whether a Parquet file of `size` bytes can be a whole one."""
    return size is not None and size >= _SMALLEST_PARQUET
