"""Explain errors of the storage and what to do next, to those who keep a journal there and those who named a corpus."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import re
from collections.abc import Iterator

from audit import locations
from audit.errors import AuditError, CorpusError, JournalError

_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ConnectionError",
    "HTTPClientError",
    "ProxyConnectionError",
    "EndpointResolutionError",
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "NoAuthTokenError",
    "TokenRetrievalError",
)
_REJECTED = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed")
_REMOTE = ("s3:", "s3a:")
_DOCTOR = "run: erasure-audit doctor"
NO_BUCKET = re.compile(r"specified bucket does not exist|NoSuchBucket", re.IGNORECASE)


class StorageUnavailable(JournalError):
    """The storage did not answer. The same call may succeed later: callers may retry it a bounded number of times."""


class SourceUnavailable(CorpusError):
    """The storage as a whole does not answer or lets nobody in; the same call may succeed later."""


@dataclasses.dataclass(frozen=True)
class _Meaning:
    """An error in words. `passing`: the same call may succeed later; `everybody`: every other object has it too."""

    what: str
    next_step: str
    passing: bool = True
    everybody: bool = True


def code(error: BaseException) -> str:
    """Return the S3 error code behind an exception, such as `NoSuchBucket`, or an empty string."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def concerns_everybody(error: BaseException) -> bool:
    """Return whether a refusal is about the caller's keys, and so about every object, not about this one."""
    return code(error) in _REJECTED


@contextlib.contextmanager
def translated(where: str, *, absent_is_error: bool = True) -> Iterator[None]:
    """Turn storage errors of the block into `JournalError`s about `where`; other errors pass through unchanged.

    Without `absent_is_error`, the FileNotFoundError of a missing object passes through as well.
    """
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
    """Return the `JournalError` that tells what `error` at `where` means for a journal and what to do next."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return JournalError(
            "the disk is full", where=where, next_step="free space, then run: erasure-audit resume RUN_ID"
        )
    if number == errno.EROFS:
        return JournalError("the file system is read-only", where=where, next_step="choose a writable storage root")
    if meaning := _common(error):
        kind = StorageUnavailable if meaning.passing else JournalError
        return kind(meaning.what, where=where, next_step=meaning.next_step)
    text, remote = _text(error), where.startswith(_REMOTE)
    if isinstance(error, PermissionError) or type(error).__name__ == "ClientError":
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
    meaning = _failed(text) if remote else _Meaning(f"the storage failed: {text}", _DOCTOR)
    return StorageUnavailable(meaning.what, where=where, next_step=meaning.next_step)


def explain_source(error: Exception, where: str) -> CorpusError:
    """Return the `CorpusError` that tells what `error` at `where` means for who only named a corpus there.

    `SourceUnavailable` when the storage as a whole is out of reach. It repeats no key.
    """
    where, text = locations.redact(where), _text(error)
    local = where.startswith("file://") and isinstance(error, OSError)
    if not local and (meaning := _common(error)):
        kind = SourceUnavailable if meaning.everybody else CorpusError
        return kind(meaning.what, where=where, next_step=meaning.next_step)
    if isinstance(error, PermissionError):
        grant = "give these credentials s3:ListBucket and s3:GetObject there"
        if local:
            text, grant = str(error.strerror), "give this user read and execute permission on the folder"
        return CorpusError(f"access to the corpus is denied: {text}", where=where, next_step=grant)
    if isinstance(error, FileNotFoundError):
        missing = "the bucket does not exist" if where.startswith("s3://") else "the corpus folder does not exist"
        return CorpusError(missing, where=where, next_step="correct the URL in the spec, or check AWS_ENDPOINT_URL")
    if local and isinstance(error, OSError):
        return CorpusError(
            f"the corpus folder cannot be read: {error.strerror or text}", where=where, next_step="correct the URL"
        )
    if isinstance(error, ValueError):
        return CorpusError(f"the corpus URL is malformed: {text}", where=where, next_step="use s3://bucket/prefix")
    if code(error) == "InvalidBucketName" or getattr(error, "errno", None) == errno.EINVAL:
        return CorpusError(f"the object storage refuses the request: {text}", where=where, next_step="correct the URL")
    meaning = _failed(text)
    return SourceUnavailable(meaning.what, where=where, next_step=meaning.next_step)


def _common(error: Exception) -> _Meaning | None:
    """Return what an error means for everybody who uses an object store; None when that depends on the use."""
    name, text = type(error).__name__, _text(error)
    if name in _NO_CREDENTIALS or "could not find credentials" in text.lower():
        return _Meaning(
            f"there are no usable credentials for the object storage: {text}",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            passing=False,
        )
    if concerns_everybody(error):
        return _Meaning(
            f"the object storage rejects these credentials ({code(error)}): {text}",
            f"check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and this machine's clock, then {_DOCTOR}",
            passing=False,
        )
    if name == "SSLError":
        return _Meaning(
            f"no secure connection to the object storage: {text}",
            "check https:// or http:// in AWS_ENDPOINT_URL and the server's certificate (AWS_CA_BUNDLE)",
        )
    client = name.startswith("Client") and name != "ClientError"  # aiohttp's own
    if name in _UNREACHABLE or client or isinstance(error, ConnectionError | TimeoutError):
        return _Meaning(
            f"the storage does not answer: {text}", f"check AWS_ENDPOINT_URL and the network, then {_DOCTOR}"
        )
    if isinstance(error, ValueError) and "endpoint" in text.lower():
        return _Meaning(
            f"the endpoint of the object storage is malformed: {text}",
            "write it as http://host:port in AWS_ENDPOINT_URL",
            passing=False,
            everybody=False,
        )
    return None


def _failed(text: str) -> _Meaning:
    what = f"the storage failed, or the endpoint is not an S3 server: {text}"
    return _Meaning(what, f"check AWS_ENDPOINT_URL, then {_DOCTOR}")


def _text(error: Exception) -> str:
    """Return what the error says as one short line; a message may repeat an endpoint with its password."""
    text = locations.readable(str(error)) or type(error).__name__
    if isinstance(error, KeyError | TypeError | AttributeError):
        return f"its answer is none that an S3 server gives ({text})"
    return text
