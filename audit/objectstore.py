"""One door to storage: an fsspec root on disk or in an object store, atomic writes, and errors that say what to do.

Credentials come from the environment or the usual AWS files; a root that carries them is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from audit import urls
from audit.errors import JournalError
from audit.locations import refuse_credentials

_RANGED_FROM = 1 << 20  # bytes; below, one request for all costs less than several for parts
_STALE_SECONDS = 24 * 3600.0
_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ConnectionError",
    "HTTPClientError",
    "ProxyConnectionError",
    "EndpointResolutionError",
    "SSLError",
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "NoAuthTokenError",
    "TokenRetrievalError",
)
_NO_BUCKET = re.compile(r"specified bucket does not exist|NoSuchBucket", re.IGNORECASE)
# botocore waits 60 s to connect and tries five times by default: minutes before a wrong endpoint is named. Checksums
# only when the operation demands them: several S3 servers lack the newer default (FlexibleChecksumError).
_S3_CONFIG: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "retries": {"max_attempts": 2, "mode": "standard"},
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


class StorageUnavailable(JournalError):
    """The storage did not answer. The same call may succeed later: callers may retry it a bounded number of times."""


class ObjectStore:
    """Objects below one root: `file:///path`, a plain path, `s3://bucket/prefix`, or another fsspec URL."""

    def __init__(self, root: str) -> None:
        """Open `root` without touching it. Raises `JournalError` for a malformed root or an unknown protocol."""
        self.protocol = _protocol(root)
        self.root = root.rstrip("/")
        options: dict[str, Any] = {}
        if self.protocol in ("s3", "s3a"):
            # A cached instance would keep the endpoint and the credentials of the first root opened in this process.
            options = {"skip_instance_cache": True, "use_listings_cache": False, "config_kwargs": dict(_S3_CONFIG)}
        try:
            self.fs, path = fsspec.core.url_to_fs(self.root, **options)
        except (ValueError, ImportError) as error:
            raise JournalError(
                f"the storage protocol is not usable: {error}",
                where=self.root,
                next_step="use file:///folder or s3://bucket/prefix",
            ) from None
        self.base = str(path).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of object `name` inside `self.fs`."""
        return f"{self.base}/{name}"

    def url(self, name: str) -> str:
        """The object's address for messages."""
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

    def _put_local(self, target: Path, data: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(self.base) / ".tmp"
        staging.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=staging, prefix=f"{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(target.parent)

    def get(self, name: str) -> bytes:
        """The bytes of object `name`. Raises FileNotFoundError when it is absent, `JournalError` for other troubles."""
        with translated(self.url(name), absent_is_error=False):
            return bytes(self.fs.cat_file(self.path(name)))

    def open(self, name: str, *, partial: bool) -> pa.NativeFile:
        """The object, open for reading by position. Raises FileNotFoundError when it is absent, else `JournalError`.

        From an object store it comes in one request; with `partial`, a large one comes in the ranges asked for.
        """
        with translated(self.url(name), absent_is_error=False):
            if self.local:
                return pa.OSFile(self.path(name), "rb")
            if not partial:
                return pa.BufferReader(self.fs.cat_file(self.path(name)))
            stream = self.fs.open(self.path(name), "rb", cache_type="none")
            return pa.PythonFile(stream) if stream.size > _RANGED_FROM else pa.BufferReader(stream.read())

    def exists(self, name: str) -> bool:
        """Whether object `name` is there. Raises `JournalError` when the storage cannot be asked."""
        with translated(self.url(name)):
            return bool(self.fs.exists(self.path(name)))

    def delete(self, name: str) -> None:
        """Remove object `name`; nothing happens when it is absent."""
        with translated(self.url(name)):
            try:
                self.fs.rm_file(self.path(name))
            except FileNotFoundError:
                return

    def entries(self, name: str) -> list[tuple[str, int]]:
        """(last part of the path, size in bytes) of everything directly below `name`; empty when it does not exist."""
        with translated(self.url(name)):
            try:
                listing = self.fs.ls(self.path(name), detail=True)
            except FileNotFoundError:
                return []
        # Some servers list the folder marker itself.
        own = self.path(name).rstrip("/")
        found = [(str(entry["name"]).rstrip("/"), int(entry.get("size") or 0)) for entry in listing]
        return [(path.rsplit("/", 1)[-1], size) for path, size in found if path != own]

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
    protocol, separator, rest = root.partition("://")
    if not separator:
        return "file"
    refuse_credentials(root)
    if protocol in ("s3", "s3a") and not rest.strip("/"):
        raise JournalError("the storage root names no bucket", where=root, next_step="use s3://bucket/prefix")
    return protocol


@contextlib.contextmanager
def translated(where: str, *, absent_is_error: bool = True) -> Iterator[None]:
    """A block whose storage errors become `JournalError`s; everything else passes through unchanged."""
    try:
        yield
    except JournalError:
        raise
    except FileNotFoundError as error:
        if not absent_is_error and not _NO_BUCKET.search(str(error)):
            raise
        raise explain(error, where) from error
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise explain(error, where) from error
        raise


def explain(error: Exception, where: str) -> JournalError:
    """The `JournalError` that tells the user what `error` at `where` means and what to do next."""
    name = type(error).__name__
    number = getattr(error, "errno", None)
    text = urls.redact(str(error).strip()) or name  # a message may repeat an endpoint with its password
    if number in (errno.ENOSPC, errno.EDQUOT):
        return JournalError(
            "the disk is full", where=where, next_step="free space, then run: erasure-audit resume RUN_ID"
        )
    if number == errno.EROFS:
        return JournalError("the file system is read-only", where=where, next_step="choose a writable storage root")
    if name in _NO_CREDENTIALS or "could not find credentials" in text.lower():
        return JournalError(
            f"no usable credentials: {text}",
            where=where,
            next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if isinstance(error, PermissionError) or name == "ClientError":
        remote = where.startswith(("s3:", "s3a:"))
        keys = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        hint = f"{keys if remote else 'change its owner or mode'}, or choose another storage root"
        return JournalError(f"access is denied: {text}", where=where, next_step=hint)
    if isinstance(error, FileNotFoundError):
        bucket = _NO_BUCKET.search(text)
        return JournalError(
            "the bucket does not exist" if bucket else "the file does not exist",
            where=where,
            next_step="create the bucket, or correct the storage root" if bucket else "correct the path",
        )
    if isinstance(error, NotADirectoryError | FileExistsError):
        return JournalError(
            "a part of the path is a file, not a folder", where=where, next_step="choose another storage root"
        )
    if name in _UNREACHABLE or isinstance(error, ConnectionError | TimeoutError) or name.startswith("Client"):
        return StorageUnavailable(
            f"the storage does not answer: {text}",
            where=where,
            next_step="check AWS_ENDPOINT_URL and the network, then run: erasure-audit doctor",
        )
    return StorageUnavailable(f"the storage failed: {text}", where=where, next_step="run: erasure-audit doctor")


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system without folder fsync is left to its own guarantees."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
