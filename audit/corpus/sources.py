"""List and read corpus objects, sorted and streamed, from folders on disk, in S3 and on other fsspec systems.

Credentials and endpoints come only from the environment and the usual AWS files, as botocore reads them. Every failure
is a `CorpusError` that says what, where and what next; none of them repeats a key.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import fsspec

from audit import locations
from audit.errors import CorpusError
from audit.files import Document
from audit.storage.errors import concerns_everybody, explain_source
from audit.storage.s3 import read_whole, s3_filesystem

_PACKAGED = ("memory", "gs", "gcs", "abfs", "abfss", "az")  # pictures may lie there, if fsspec's package is installed
_LITTER = (".ds_store", "thumbs.db", "desktop.ini")


@dataclasses.dataclass(frozen=True)
class ListedObject:
    """One listed object. `problem` says why it cannot be read at all; None for an ordinary object."""

    uri: str
    size: int  # bytes, as listed
    problem: str | None = None
    tag: str | None = None  # an object store's own tag of the content; None where there is none, as on disk


def is_litter(uri: str, below: str) -> bool:
    """Return whether macOS or Windows left the object `uri` beside the user's own files in the folder `below`."""
    *folders, name = uri.removeprefix(below).strip("/").split("/")
    return name.startswith("._") or name.casefold() in _LITTER or "__MACOSX" in folders


class Source(Protocol):
    """One folder or prefix of a corpus."""

    uri: str

    def objects(self) -> Iterator[ListedObject]:
        """Yield every object below the folder, in order of URI, fetched page by page."""

    def read(self, uri: str) -> bytes:
        """Return all bytes of one object. Raises FileNotFoundError, PermissionError, or `SourceUnavailable`."""


def open_source(url: str) -> Source:
    """Return the source for a folder URL. Raises `CorpusError` for credentials in the URL and for unusable protocols."""
    kind = locations.scheme(url)
    if locations.has_credentials(url):
        raise CorpusError(
            "the corpus URL carries credentials",
            where=f"{kind}://***",
            next_step="remove them from the URL and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if not url.strip() or "\x00" in url:
        raise CorpusError("the corpus URL is empty or not a path", next_step="use file:///folder or s3://bucket/prefix")
    if problem := locations.scheme_problem(url, also=_PACKAGED):
        what = f"this URL cannot be used for a corpus: {problem}"
        raise CorpusError(what, where=locations.redact(url), next_step="use file:///folder or s3://bucket/prefix")
    if kind == "file":
        return LocalSource(locations.absolute(url))
    if kind == "s3":
        return S3Source(locations.absolute(url))
    return GenericSource(locations.absolute(url))


class LocalSource:
    """A folder on disk. Links to files are followed; links to folders are reported, not followed (they may loop)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def objects(self) -> Iterator[ListedObject]:
        """Yield every file below the folder in order of URI; pipes, sockets and broken links come with a `problem`."""
        root = _path(self.uri)
        try:
            if not stat.S_ISDIR(Path(root).stat().st_mode):
                raise _not_a_folder(self.uri)
            yield from self._walk(root.rstrip("/"))
        except OSError as error:
            where = "file://" + _printable(error.filename or root)
            raise explain_source(error, where) from None

    def _walk(self, folder: str) -> Iterator[ListedObject]:
        with os.scandir(folder or "/") as listing:
            # a folder sorts as its name and a slash, which makes the walk's order the order of the URIs
            entries = sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            else:
                yield _local_object(path)

    def read(self, uri: str) -> bytes:
        """Return all bytes of the file."""
        path = Path(_path(uri))
        if path.exists() and not path.is_dir() and not path.is_file():
            raise FileNotFoundError(uri)  # a pipe would be waited for
        return path.read_bytes()


def _path(uri: str) -> str:
    return uri.removeprefix("file://")


def _printable(path: object) -> str:
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _local_object(path: str) -> ListedObject:
    uri = "file://" + _printable(path)
    if uri != f"file://{path}":
        return ListedObject(uri, 0, "the file's name is not UTF-8")
    try:
        status = Path(path).stat()
    except OSError as error:
        return ListedObject(uri, 0, "broken link" if Path(path).is_symlink() else f"unreadable: {error.strerror}")
    if stat.S_ISREG(status.st_mode):
        return ListedObject(uri, status.st_size)
    return ListedObject(
        uri, 0, "a link to a folder; it is not followed" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    )


def _not_a_folder(uri: str) -> CorpusError:
    return CorpusError(
        "the corpus URL names a file, not a folder", where=uri, next_step=f"use {uri.rpartition('/')[0]}/"
    )


class S3Source:
    """A prefix of a bucket, always a whole part of the path: `s3://b/cat` never matches `s3://b/cats/`."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise CorpusError("the corpus URL names no bucket", where=uri, next_step="use s3://bucket/prefix")
        self.prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def objects(self) -> Iterator[ListedObject]:
        """Yield every object below the prefix in order of key, 1,000 to a request; empty folder markers are left out."""
        last = ""
        for entry in self._pages():
            key = str(entry["Key"])
            if key <= last:
                raise CorpusError(
                    "the S3 server lists objects out of order, so the corpus cannot be streamed from it",
                    where=self.uri,
                    next_step="copy the corpus to a general-purpose bucket or to a local folder",
                )
            last = key
            if not (key.endswith("/") and entry["Size"] == 0):
                yield ListedObject(f"s3://{self.bucket}/{key}", int(entry["Size"]), tag=_tag(entry))
        if not last and self.prefix and self._is_object():
            raise _not_a_folder(self.uri)

    def _pages(self) -> Iterator[Document]:
        more: dict[str, str] = {}
        while True:
            try:
                page = s3_filesystem().call_s3("list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, **more)
            except Exception as error:  # translated; the cause may repeat an endpoint's password
                raise explain_source(error, self.uri) from None
            entries = page.get("Contents", ())
            if ("IsTruncated" not in page and "Name" not in page) or not all(_whole(entry) for entry in entries):
                raise explain_source(
                    OSError("the answer is not an S3 listing"), self.uri
                )  # any web page parses as an empty one
            yield from entries
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken")
            if not following or following == more.get("ContinuationToken"):
                raise explain_source(OSError("the answer is an S3 listing without an end"), self.uri)
            more = {"ContinuationToken": following}

    def _is_object(self) -> bool:
        try:
            s3_filesystem().call_s3("head_object", Bucket=self.bucket, Key=self.prefix.rstrip("/"))
        except Exception:  # the prefix is empty either way; this only chooses the better message
            return False
        return True

    def read(self, uri: str) -> bytes:
        """Return all bytes of the object."""
        return _read(lambda: read_whole(s3_filesystem(), uri), uri)


class GenericSource:
    """A folder on another fsspec file system: one in this process's memory, or Google's or Azure's with its package."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        kind = locations.scheme(uri)
        try:
            self._fs = fsspec.filesystem(kind)
        except (ValueError, ImportError) as error:
            raise CorpusError(
                f"the protocol {kind!r} cannot be used for a corpus: {locations.redact(str(error))}",
                where=locations.redact(uri),
                next_step="use file:///folder or s3://bucket/prefix",
            ) from None

    def objects(self) -> Iterator[ListedObject]:
        """Yield every object below the folder, in order of URI, listed one folder at a time."""
        try:
            if self._fs.isfile(self.uri):
                raise _not_a_folder(self.uri)
            yield from self._walk(self._fs._strip_protocol(self.uri))
        except CorpusError:
            raise
        except Exception as error:  # translated; any package's exceptions
            raise explain_source(error, self.uri) from None

    def _walk(self, folder: str) -> Iterator[ListedObject]:
        entries = [e for e in self._fs.ls(folder, detail=True) if e["name"].rstrip("/") != folder.rstrip("/")]
        for entry in sorted(entries, key=lambda e: str(e["name"]).rstrip("/") + "/" * (e["type"] == "directory")):
            if entry["type"] == "directory":
                yield from self._walk(str(entry["name"]))
            else:
                yield ListedObject(str(self._fs.unstrip_protocol(entry["name"])), int(entry.get("size") or 0))

    def read(self, uri: str) -> bytes:
        """Return all bytes of the object."""
        return _read(lambda: bytes(self._fs.cat_file(uri)), uri)


def _tag(entry: Document) -> str | None:
    tag = entry.get("ETag")
    return tag if isinstance(tag, str) and tag.strip('"') else None


def _whole(entry: Document) -> bool:
    """Return whether an entry of an S3 listing names an object and its size."""
    size = entry.get("Size")
    return bool(entry.get("Key")) and type(size) is int and 0 <= size < 2**63


def _read(read: Callable[[], bytes], uri: str) -> bytes:
    try:
        return read()
    except Exception as error:  # translated; any fsspec package's exceptions
        if isinstance(error, FileNotFoundError | PermissionError) and not concerns_everybody(error):
            raise
        raise explain_source(error, uri) from None
