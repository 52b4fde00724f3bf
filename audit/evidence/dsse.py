"""Signatures: DSSE envelopes (secure-systems-lab/dsse, protocol v1.0.2) around in-toto statements v1, by Ed25519.

An envelope is read only in the one form in which it is written here, so that no byte of it can change unnoticed: canonical
base64, key ids that are the keys', nothing beside. The form keeps each field on a line of its own for `sed`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from pydantic import JsonValue

from audit.errors import NotVerified
from audit.evidence.keys import PrivateKey, PublicKey, stamp
from audit.files import Document, ForeignError, parse_json

STATEMENT_PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATES = "https://erasure-audit.invalid/"  # names, not addresses: .invalid belongs to nobody (RFC 2606)


@dataclasses.dataclass(frozen=True)
class Signed:
    """What a verified envelope holds, and whose signatures it carries."""

    payload: bytes
    signers: tuple[PublicKey, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_payload(payload_type: str, payload: bytes, key: PrivateKey) -> dict[str, JsonValue]:
    """Return an envelope with one signature. Raises `KeyProblem` when the key has expired."""
    key.require_valid(dt.datetime.now(dt.UTC))
    return {
        "payload": _base64(payload),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.keyid, "sig": _base64(key.key.sign(pae(payload_type, payload)))}],
    }


def encode_envelope(envelope: Document) -> bytes:
    """Return the file of an envelope, each field on a line of its own."""
    return (json.dumps(envelope, indent=1, sort_keys=True) + "\n").encode()


def decode_envelope(data: bytes, where: str) -> Document:
    """Return the envelope in a file. Raises `NotVerified` for one that `encode_envelope` would not have written."""
    try:
        envelope = parse_json(data)
    except ForeignError as error:
        raise NotVerified(f"this is no DSSE envelope: {error}", where=where) from None
    require_envelope(envelope, where)
    if encode_envelope(envelope) != data:
        raise NotVerified("the envelope is not in the form in which it was written", where=where)
    return dict(envelope)


def require_envelope(envelope: object, where: str) -> None:
    """Return when a JSON value is an envelope in canonical form. Raises `NotVerified`."""
    if not isinstance(envelope, dict) or envelope.keys() != {"payload", "payloadType", "signatures"}:
        raise NotVerified("this is no DSSE envelope: it has other fields", where=where)
    signatures = envelope["signatures"]
    well_formed = (
        isinstance(envelope["payloadType"], str)
        and _canonical(envelope["payload"])
        and isinstance(signatures, list)
        and all(isinstance(one, dict) and one.keys() == {"keyid", "sig"} for one in signatures)
        and all(isinstance(one["keyid"], str) and _canonical(one["sig"]) for one in signatures)
    )
    if not well_formed:
        raise NotVerified("this is no DSSE envelope: a field is missing or malformed", where=where)


def payload_of(envelope: Document) -> bytes:
    """Return the payload of an envelope, whoever signed it."""
    return base64.b64decode(envelope["payload"])


def verify_envelope(
    envelope: Document,
    trusted: Iterable[PublicKey],
    *,
    payload_type: str = STATEMENT_PAYLOAD,
    where: str = "",
    now: dt.datetime | None = None,
) -> Signed:
    """Return the payload of an envelope, every signature of which is by a trusted key that had not expired at `now`.

    `now` is the clock's time without one. Raises `NotVerified` for an unknown key, an expired one, a signature that
    does not fit, and a payload of another type.
    """
    require_envelope(envelope, where)
    if envelope["payloadType"] != payload_type:
        raise NotVerified(f"the envelope holds a payload of type {str(envelope['payloadType'])[:80]!r}", where=where)
    payload = payload_of(envelope)
    signatures: Sequence[Mapping[str, str]] = envelope["signatures"]
    known = {key.keyid: key for key in trusted}
    signers = tuple(_signer(one, pae(payload_type, payload), known, where, now) for one in signatures)
    if not signers or len({key.keyid for key in signers}) != len(signers):
        raise NotVerified("the envelope has no signature, or two by one key", where=where)
    return Signed(payload, signers)


def _signer(
    signature: Mapping[str, str], message: bytes, known: Mapping[str, PublicKey], where: str, now: dt.datetime | None
) -> PublicKey:
    key = known.get(signature["keyid"])
    if key is None:
        raise NotVerified(
            f"it is signed with the key {signature['keyid'][:16]}..., which is none that you trust",
            where=where,
            next_step="get the signer's public key from the signer, not from the bundle, and name it with --key",
        )
    try:
        key.key.verify(base64.b64decode(signature["sig"]), message)
    except InvalidSignature:
        raise NotVerified(
            f"the signature is not one of the key {key.path.name} over this payload", where=where
        ) from None
    if key.not_after is not None and (now or dt.datetime.now(dt.UTC)) > key.not_after:
        raise NotVerified(
            f"the key {key.path.name} expired on {stamp(key.not_after)}",
            where=where,
            next_step="a signature is no proof of its own time; if your records show when you received it, say so with --as-of",
        )
    return key


def statement(subjects: Mapping[str, str], predicate: str, content: Document) -> bytes:
    """Return an in-toto statement: `content` under the name `predicate` (`verdict/v1`) about subjects, name -> SHA-256."""
    document = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": PREDICATES + predicate,
        "predicate": dict(content),
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def read_statement(payload: bytes, predicate: str, where: str) -> tuple[dict[str, str], Document]:
    """Return (subjects, content) of a statement. Raises `NotVerified` when it is none, or is of another predicate."""
    try:
        document = parse_json(payload)
        subjects = {one["name"]: one["digest"]["sha256"] for one in document["subject"]}
        kind, content = document["predicateType"], document["predicate"]
        if document["_type"] != STATEMENT or not isinstance(content, dict):
            raise ForeignError("it is no in-toto statement v1")
    except ForeignError as error:
        raise NotVerified(f"the signed statement cannot be read: {error}", where=where) from None
    except (LookupError, TypeError, AttributeError):
        raise NotVerified("the signed statement lacks a field", where=where) from None
    if kind != PREDICATES + predicate:
        raise NotVerified(
            f"the signed statement says {str(kind)[:120]!r} and not {PREDICATES + predicate!r}",
            where=where,
            next_step="verify a bundle of a newer version with that version of erasure-audit",
        )
    return subjects, content


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _canonical(text: object) -> bool:
    """Return whether a value is base64 in the one form that the encoder writes."""
    try:
        return isinstance(text, str) and _base64(base64.b64decode(text, validate=True)) == text
    except (binascii.Error, ValueError):
        return False
