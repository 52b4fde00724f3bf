"""What an error of the storage means, and what to do next."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from audit import locations
from audit.errors import AuditError, JournalError

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
_REMOTE = ("s3:", "s3a:")
NO_BUCKET = re.compile(r"specified bucket does not exist|NoSuchBucket", re.IGNORECASE)


class StorageUnavailable(JournalError):
    """The storage did not answer. The same call may succeed later: callers may retry it a bounded number of times."""


@contextlib.contextmanager
def translated(where: str, *, absent_is_error: bool = True) -> Iterator[None]:
    """A block whose storage errors become `JournalError`s; everything else passes through unchanged."""
    try:
        yield
    except JournalError:
        raise
    except FileNotFoundError as error:
        if not absent_is_error and not NO_BUCKET.search(str(error)):
            raise
        raise explain(error, where) from error
    except Exception as error:  # what an object store answers is parsed by three packages, and breaks any of them
        if isinstance(error, OSError) or (not isinstance(error, AuditError) and where.startswith(_REMOTE)):
            raise explain(error, where) from error
        raise


def explain(error: Exception, where: str) -> JournalError:
    """The `JournalError` that tells the user what `error` at `where` means and what to do next."""
    name = type(error).__name__
    number = getattr(error, "errno", None)
    text = locations.readable(str(error)) or name  # a message may repeat an endpoint with its password
    if isinstance(error, KeyError | TypeError | AttributeError):
        text = f"its answer is none that an S3 server gives ({text})"
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
        remote = where.startswith(_REMOTE)
        keys = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        hint = f"{keys if remote else 'change its owner or mode'}, or choose another storage root"
        return JournalError(f"access is denied: {text}", where=where, next_step=hint)
    if isinstance(error, FileNotFoundError):
        bucket = NO_BUCKET.search(text)
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
