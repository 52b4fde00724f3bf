"""Read and write objects below one storage root, on disk or in an object store; every write is atomic.

Credentials come from the environment or the usual AWS files; a root that carries them is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import errno
import functools
import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from audit import files, locations
from audit.errors import JournalError
from audit.files import Document
from audit.locations import refuse_credentials
from audit.storage.errors import NO_BUCKET, code, translated
from audit.storage.local_files import link_new, sync_folder
from audit.storage.s3 import read_whole, s3_filesystem

_RANGED_FROM = 1 << 20  # bytes; below, one request for all costs less than several for parts
_NOT_IN_KEYS = "?#\\*[]\x00\r\n\t"  # versions, patterns and what servers and proxies cut off or rewrite
_STALE_SECONDS = 24 * 3600.0
_TAKEN = ("PreconditionFailed", "412")  # answers to a PUT on condition that the name is free


@dataclasses.dataclass(frozen=True, slots=True)
class ListedEntry:
    """Something directly below a folder: the last part of its path, and its size in bytes.

    `stamp` differs once it was written anew. `written` is when that was, as the storage says in UTC; None where it does not.
    """

    name: str
    size: int
    stamp: str
    written: dt.datetime | None


class ObjectStore:
    """Objects below one root: `file:///path`, a plain path, or `s3://bucket/prefix`."""

    def __init__(self, root: str) -> None:
        """Open `root` without touching it. Raises `JournalError` for a malformed root or another protocol."""
        self.protocol = _protocol(root)
        self.root = root.rstrip("/") or "/"
        self.local = self.protocol == "file"
        if self.local:  # taken as it stands: fsspec's own parsing would cut the path at `::`
            self.fs = LocalFileSystem()
            self.base = locations.absolute(root).removeprefix("file://").rstrip("/")
            return
        self.fs = s3_filesystem()
        self.base = locations.absolute(self.root).removeprefix("s3://").rstrip("/")

    def path(self, name: str) -> str:
        """Return the path of object `name` inside `self.fs`."""
        return f"{self.base}/{name}"

    def url(self, name: str) -> str:
        """Return the object's address, for messages."""
        return f"{self.root}/{name}"

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, wholly or not at all. Raises `JournalError`.

        On disk: a temporary file on the same file system, fsync, rename. In an object store: one PUT (from 100 MB on a
        multipart upload, which appears at once when it completes).
        """
        with translated(self.url(name)):
            if self.local:
                self._put_local(Path(self.path(name)), data)
            else:
                self.fs.pipe_file(self.path(name), data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Store `data` under `name` unless something is there; return whether it was stored. Raises `JournalError`.

        On disk: a hard link, which fails when the name is taken, so of several writers exactly one wins. In an object
        store: a conditional PUT. Some servers lack or ignore the condition: there the last of those who write within the
        same moment wins, and only who asks first whether the name is taken keeps that moment short.
        """
        with translated(self.url(name)):
            if self.local:
                return self._put_local(Path(self.path(name)), data, replace=False)
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                reason = code(error)
                if reason in _TAKEN:
                    return False
                if reason == "ConditionalRequestConflict" and self.fs.exists(self.path(name)):
                    return False
                if error.errno != errno.ENOSYS:
                    raise
                self.fs.pipe_file(self.path(name), data)
            return True

    def _put_local(self, target: Path, data: bytes, *, replace: bool = True) -> bool:
        return self._place(target, lambda path: path.write_bytes(data), replace=replace)

    def _place(self, target: Path, write: Callable[[Path], object], *, replace: bool) -> bool:
        staging = Path(self.base) / ".tmp"
        staging.mkdir(parents=True, exist_ok=True)
        unfinished = staging / f"{target.name}.{uuid.uuid4().hex}"
        finish = {} if replace else {"finish": link_new}
        new = list(itertools.takewhile(lambda folder: not folder.exists(), target.parents))
        stored = files.place(target, write, unfinished=unfinished, **finish)
        for folder in (target.parent, *(folder.parent for folder in new)):  # a new folder's name too
            sync_folder(folder)
        return stored

    def get(self, name: str) -> bytes:
        """Return the bytes of object `name`. Raises FileNotFoundError when it is absent, else `JournalError`."""
        with translated(self.url(name), absent_is_error=False):
            return bytes(self._whole(name))

    def put_file(self, name: str, path: Path) -> bool:
        """Store a local file under `name` unless something is there, and return whether it was stored; never whole in memory.

        Raises `JournalError`.
        """
        with translated(self.url(name)):
            if self.fs.exists(self.path(name)):
                return False
            if not self.local:
                self.fs.put_file(str(path), self.path(name))
                return True
            return self._place(Path(self.path(name)), functools.partial(shutil.copyfile, path), replace=False)

    def fetch(self, name: str, path: Path) -> None:
        """Copy object `name` to the local file `path`, never whole in memory. Raises `JournalError`, of an absent one too."""
        with translated(self.url(name)):
            self.fs.get_file(self.path(name), str(path))

    def open(self, name: str, *, partial: bool) -> pa.NativeFile:
        """Open object `name` for reading by position. Raises FileNotFoundError when it is absent, else `JournalError`.

        From an object store it comes in one request; with `partial`, a large one comes in the ranges asked for.
        """
        with translated(self.url(name), absent_is_error=False):
            if self.local:
                return pa.OSFile(self.path(name), "rb")
            if not partial:
                return pa.BufferReader(self._whole(name))
            stream = self.fs.open(self.path(name), "rb", cache_type="none")
            return pa.PythonFile(stream) if stream.size > _RANGED_FROM else pa.BufferReader(stream.read())

    def _whole(self, name: str) -> bytes:
        if self.local:
            return Path(self.path(name)).read_bytes()
        return read_whole(self.fs, self.path(name))

    def exists(self, name: str) -> bool:
        """Return whether object `name` is there. Raises `JournalError` when the storage cannot be asked."""
        with translated(self.url(name)):
            return bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int | None:
        """Return the size of object `name` in bytes, None when it is absent. Raises as `entry`."""
        entry = self.entry(name)
        return entry.size if entry else None

    def entry(self, name: str) -> ListedEntry | None:
        """Return what a listing would tell of object `name`, asked for by its name; None when it is absent.

        Raises `JournalError` when the storage cannot be asked.
        """
        with translated(self.url(name)):
            try:
                return _entry(self.fs.info(self.path(name)))
            except FileNotFoundError as error:
                if NO_BUCKET.search(str(error)):
                    raise
                return None

    def delete(self, name: str) -> None:
        """Remove object `name`; nothing happens when it is absent."""
        with translated(self.url(name)):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def entries(self, name: str) -> list[tuple[str, int]]:
        """List everything directly below `name` as (last part of the path, size in bytes); empty when it does not exist."""
        return [(entry.name, entry.size) for entry in self.listed(name)]

    def listed(self, name: str) -> list[ListedEntry]:
        """Return everything directly below `name`, as one listing tells it: nothing is read. Empty when it does not exist."""
        with translated(self.url(name)):
            try:
                listing = self.fs.ls(self.path(name), detail=True)
            except FileNotFoundError:
                return []
        # Some servers list the folder marker itself.
        own = self.path(name).rstrip("/")
        return [_entry(entry) for entry in listing if str(entry["name"]).rstrip("/") != own]

    def probe(self) -> None:
        """Return when an object can be written, read back and deleted. Raises `JournalError` with the next step."""
        name, data = f".probe-{uuid.uuid4().hex}", os.urandom(64)
        self.put(name, data)
        try:
            back = self.get(name)
        except FileNotFoundError:
            back = b""
        self.delete(name)
        if back != data:
            raise JournalError(
                "the storage did not return what was written to it",
                where=self.root,
                next_step="use a store with read-after-write consistency and check it with: erasure-audit doctor",
            )
        self._sweep()

    def _sweep(self) -> None:
        """Remove temporary files that a killed process left behind."""
        if not self.local:
            return
        for path in (Path(self.base) / ".tmp").glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _protocol(root: str) -> str:
    """Return `file` or `s3`. Raises `JournalError` for any other protocol and for a name that its storage cannot hold."""
    refuse_credentials(root)
    use = "use file:///folder or s3://bucket/prefix"
    if problem := locations.scheme_problem(root):
        raise JournalError(f"the storage protocol is not usable: {problem}", where=root, next_step=use)
    protocol, rest = locations.scheme(root), root.partition("://")[2]
    if protocol == "s3" and not rest.strip("/"):
        raise JournalError("the storage root names no bucket", where=root, next_step="use s3://bucket/prefix")
    unusable = "\x00" if protocol == "file" else _NOT_IN_KEYS
    if character := next((c for c in root if c in unusable), None):
        what = f"the storage root cannot be used: its name holds the character {character!r}"
        raise JournalError(what, where=repr(root), next_step="choose a name without it")
    return protocol


def _entry(entry: Document) -> ListedEntry:
    name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
    return ListedEntry(name, int(entry.get("size") or 0), _stamp(entry), _time(entry))


def _stamp(entry: Document) -> str:
    """Return an object's size and entity tag; where the storage gives no tag, its size, time and file number."""
    tag = next((entry[name] for name in ("ETag", "etag") if entry.get(name)), None)
    times = [entry[name] for name in ("mtime", "LastModified", "last_modified", "updated", "ino") if entry.get(name)]
    return " ".join(str(part) for part in (entry.get("size") or 0, *([tag] if tag else times)))


def _time(entry: Document) -> dt.datetime | None:
    time = entry.get("mtime") or entry.get("LastModified")
    return time if isinstance(time, dt.datetime) or not time else dt.datetime.fromtimestamp(time, dt.UTC)
