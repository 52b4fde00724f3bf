"""Time stamps (RFC 3161): an authority's signed word that an envelope existed at a time.

Optional: `rfc3161-client` reads and verifies them (extra `timestamp`). The reply is kept as it came, with the authority's
certificates in it, so that `openssl ts -verify` checks it too. Who is trusted is said by whoever verifies, as root
certificates; those in a reply prove nothing by themselves.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from audit import locations
from audit.errors import EnvironmentProblem, EvidenceError, NotVerified
from audit.files import ForeignError, read_bounded

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_SECONDS = 30.0  # for the whole answer
_LARGEST = 1 << 20  # bytes of a reply, and of a file of certificates
_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"
_SHA256 = "2.16.840.1.101.3.4.2.1"


def require_client() -> None:
    """Return when time stamps can be asked for and read here. Raises `EnvironmentProblem` without the library."""
    try:
        import rfc3161_client  # noqa: F401
    except ImportError:
        raise EnvironmentProblem(
            "time stamps are read by rfc3161-client, which is not installed",
            where="--tsa",
            next_step="install it with: pip install 'erasure-audit[timestamp]', or leave out --tsa",
        ) from None


def request_stamp(url: str, data: bytes) -> bytes:
    """Return the reply of the time-stamp authority at `url` for `data`: its time over the data's SHA-256, as DER.

    Raises `EvidenceError` when the authority cannot be reached, refuses, or answers about something else;
    `EnvironmentProblem` without the library. Only the digest is sent.
    """
    require_client()
    import httpx
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    if locations.scheme(url) not in ("http", "https") or locations.has_credentials(url):
        raise EvidenceError(
            "a time-stamp authority is asked over http or https, at an address without credentials",
            where="--tsa",
            next_step="write it as http://host/path",
        )
    request = TimestampRequestBuilder().data(data).hash_algorithm(HashAlgorithm.SHA256).build()
    try:
        answer = httpx.post(url, content=request.as_bytes(), headers={"Content-Type": _QUERY}, timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failed(f"the time-stamp authority does not answer: {locations.readable(str(error))}", url) from None
    if answer.status_code != httpx.codes.OK or len(answer.content) > _LARGEST:
        raise _failed(f"the time-stamp authority answers with HTTP status {answer.status_code}", url)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _REPLY:
        raise _failed(f"the time-stamp authority answers with {kind or 'nothing'!r} instead of a time stamp", url)
    try:
        reply = _decoded(answer.content, data)
    except NotVerified as error:
        raise _failed(error.what, url) from None
    if reply.tst_info.nonce != request.nonce:
        raise _failed("the time stamp answers another request", url)
    return bytes(answer.content)


def check_stamp(reply: bytes, data: bytes, roots: Sequence[x509.Certificate], where: str) -> dt.datetime:
    """Return when `data` existed at the latest, by an authority under one of `roots`.

    Raises `NotVerified` for a reply that is damaged, about other data, or by an authority that no root vouches for.
    """
    require_client()
    from rfc3161_client import VerificationError, VerifierBuilder

    try:
        decoded = _decoded(reply, data)
        VerifierBuilder(roots=list(roots)).build().verify(decoded, hashlib.sha256(data).digest())
    except NotVerified as error:
        raise NotVerified(error.what, where=where) from None
    except (VerificationError, ValueError) as error:
        raise NotVerified(f"the time stamp does not verify: {_line(error)}", where=where) from None
    return _time(decoded)


def stated_time(reply: bytes, data: bytes, where: str) -> dt.datetime:
    """Return the time that a reply states of `data`, whoever signed it. Raises `NotVerified` for one that is about other data."""
    require_client()
    try:
        return _time(_decoded(reply, data))
    except NotVerified as error:
        raise NotVerified(error.what, where=where) from None


def read_roots(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file. Raises `EvidenceError`."""
    try:
        return x509.load_pem_x509_certificates(read_bounded(path, _LARGEST))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ForeignError, ValueError) as error:
        reason = _line(error)
    raise EvidenceError(
        f"the authority's root certificates cannot be read: {reason}",
        where=str(path),
        next_step="name a PEM file that you have from the authority itself",
    )


def _decoded(reply: bytes, data: bytes) -> TimeStampResponse:
    """Return a granted reply about `data`. Raises `NotVerified`."""
    from rfc3161_client import PKIStatus, decode_timestamp_response

    try:
        decoded = decode_timestamp_response(reply)
        if decoded.status != PKIStatus.GRANTED:
            words = "; ".join(decoded.status_string) or PKIStatus(decoded.status).name.lower()
            raise NotVerified(f"the time-stamp authority refused: {locations.readable(words)}")
        imprint = decoded.tst_info.message_imprint
        digest, algorithm = bytes(imprint.message), imprint.hash_algorithm.dotted_string
    except ValueError as error:
        raise NotVerified(f"the time stamp cannot be read: {_line(error)}") from None
    if algorithm != _SHA256 or digest != hashlib.sha256(data).digest():
        raise NotVerified("the time stamp is not over this envelope")
    return decoded


def _time(decoded: TimeStampResponse) -> dt.datetime:
    moment: dt.datetime = decoded.tst_info.gen_time
    return moment.astimezone(dt.UTC)


def _line(error: BaseException) -> str:
    return locations.readable(str(error)) or type(error).__name__


def _failed(what: str, url: str) -> EvidenceError:
    return EvidenceError(
        what,
        where=locations.redact(url),
        next_step="nothing was sealed: name another authority with --tsa, or seal without a time stamp",
    )
