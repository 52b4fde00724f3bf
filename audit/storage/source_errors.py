"""What a storage failure means for somebody who only named a corpus URL: one `CorpusError` with the next step."""

from __future__ import annotations

import errno

from audit import locations
from audit.errors import CorpusError

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
_UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"}
_UNREACHABLE |= {"ProxyConnectionError", "HTTPClientError", "FSTimeoutError"}
_REJECTED = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
_DOCTOR = "then run: erasure-audit doctor"


class SourceUnavailable(CorpusError):
    """The storage as a whole does not answer or lets nobody in; the same call may succeed later."""


def code(error: BaseException) -> str:
    """The S3 error code behind an exception, such as `NoSuchBucket`, or an empty string."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def concerns_everybody(error: BaseException) -> bool:
    """Whether a refusal is about the caller's keys, and so about every object, not about this one."""
    return code(error) in _REJECTED


def explain(error: Exception, where: str) -> CorpusError:
    """The `CorpusError` for `error` at `where`: `SourceUnavailable` when the storage as a whole is out of reach."""
    name, reason = type(error).__name__, code(error)
    text = locations.readable(str(error)) or name
    where = locations.redact(where)
    if name in _NO_CREDENTIALS:
        return SourceUnavailable(
            f"there are no usable credentials for the object storage: {text}",
            where=where,
            next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if reason in _REJECTED:
        return SourceUnavailable(
            f"the object storage rejects these credentials ({reason}): {text}",
            where=where,
            next_step=f"check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and this machine's clock, {_DOCTOR}",
        )
    if isinstance(error, PermissionError):
        grant = "give these credentials s3:ListBucket and s3:GetObject there"
        if where.startswith("file://"):
            text, grant = str(error.strerror), "give this user read and execute permission on the folder"
        return CorpusError(f"access to the corpus is denied: {text}", where=where, next_step=grant)
    if isinstance(error, FileNotFoundError):
        missing = "the bucket does not exist" if where.startswith("s3://") else "the corpus folder does not exist"
        return CorpusError(missing, where=where, next_step="correct the URL in the spec, or check AWS_ENDPOINT_URL")
    if where.startswith("file://") and isinstance(error, OSError):
        return CorpusError(
            f"the corpus folder cannot be read: {error.strerror or text}", where=where, next_step="correct the URL"
        )
    if name == "SSLError":
        return SourceUnavailable(
            f"no secure connection to the object storage: {text}",
            where=where,
            next_step="check https:// or http:// in AWS_ENDPOINT_URL and the server's certificate (AWS_CA_BUNDLE)",
        )
    if name in _UNREACHABLE or isinstance(error, ConnectionError | TimeoutError):
        return SourceUnavailable(
            f"the object storage does not answer: {text}",
            where=where,
            next_step=f"check AWS_ENDPOINT_URL and the network, {_DOCTOR}",
        )
    if isinstance(error, ValueError):
        return CorpusError(
            f"the corpus URL or the endpoint is malformed: {text}",
            where=where,
            next_step="use s3://bucket/prefix, and http://host:port in AWS_ENDPOINT_URL",
        )
    if reason == "InvalidBucketName" or getattr(error, "errno", None) == errno.EINVAL:
        return CorpusError(f"the object storage refuses the request: {text}", where=where, next_step="correct the URL")
    return SourceUnavailable(
        f"the object storage failed, or the endpoint is not an S3 server: {text}",
        where=where,
        next_step=f"check AWS_ENDPOINT_URL, {_DOCTOR}",
    )
