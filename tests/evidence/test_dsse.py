"""Signatures: what is signed, who signed it, and every change of an envelope."""

from __future__ import annotations

import base64
import datetime as dt
import json
import random
from pathlib import Path

import pytest

from audit.errors import EXIT_NOT_VERIFIED, KeyProblem, NotVerified
from audit.evidence import dsse, keys

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


def pair(
    folder: Path, name: str = "seal", not_after: dt.datetime | None = None
) -> tuple[keys.PrivateKey, keys.PublicKey]:
    public = keys.generate(folder / f"{name}.pem", not_after=not_after)
    return keys.load_private_key(folder / f"{name}.pem"), public


def test_the_pre_authentication_encoding_is_that_of_the_specification() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_statement_comes_back_from_its_envelope(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    payload = dsse.statement({"tagmanifest-sha256.txt": "ab" * 32}, "verdict/v1", {"verdict": "PASS", "ü": 1})
    data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, private))
    signed = dsse.verify_envelope(dsse.decode_envelope(data, "here"), [public])
    assert signed.payload == payload and [key.keyid for key in signed.signers] == [private.keyid]
    subjects, content = dsse.read_statement(signed.payload, "verdict/v1", "here")
    assert subjects == {"tagmanifest-sha256.txt": "ab" * 32} and content == {"verdict": "PASS", "ü": 1}


def test_each_reason_not_to_verify_has_its_own_message(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    _, other = pair(tmp_path, "other")
    envelope = dsse.sign_payload(dsse.STATEMENT_PAYLOAD, b"{}", private)
    with pytest.raises(NotVerified, match="none that you trust") as caught:
        dsse.verify_envelope(envelope, [other])
    assert caught.value.exit_code == EXIT_NOT_VERIFIED == 5
    with pytest.raises(NotVerified, match="payload of type 'text/plain'"):
        dsse.verify_envelope({**envelope, "payloadType": "text/plain"}, [public])
    forged = {**envelope, "payload": base64.b64encode(b"[]").decode()}
    with pytest.raises(NotVerified, match=r"not one of the key seal\.pub"):
        dsse.verify_envelope(forged, [public])
    with pytest.raises(NotVerified, match="no signature"):
        dsse.verify_envelope({**envelope, "signatures": []}, [public])
    with pytest.raises(NotVerified, match="two by one key"):
        dsse.verify_envelope({**envelope, "signatures": envelope["signatures"] * 2}, [public])
    for payload, message in ((b"{", "not valid JSON"), (b"{}", "lacks a field"), (b"[]", "lacks a field")):
        with pytest.raises(NotVerified, match=message):
            dsse.read_statement(payload, "verdict/v1", "here")
    newer = dsse.statement({}, "verdict/v2", {})
    with pytest.raises(NotVerified, match="verdict/v2") as caught:
        dsse.read_statement(newer, "verdict/v1", "here")
    assert "newer version" in str(caught.value)


def test_an_expired_key_neither_signs_nor_verifies(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    envelope = dsse.sign_payload(dsse.STATEMENT_PAYLOAD, b"{}", private)
    expired = keys.PublicKey(public.key, public.path, YESTERDAY)
    with pytest.raises(NotVerified, match="expired on"):
        dsse.verify_envelope(envelope, [expired])
    assert dsse.verify_envelope(envelope, [expired], now=YESTERDAY).payload == b"{}"
    with pytest.raises(KeyProblem, match="expired on"):
        dsse.sign_payload(dsse.STATEMENT_PAYLOAD, b"{}", pair(tmp_path, "old", YESTERDAY)[0])


def test_no_change_of_an_envelope_file_goes_unnoticed(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, b'{"verdict":"PASS"}', private))
    draw = random.Random(0)
    for _ in range(400):
        place, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        changed = bytearray(data)
        changed[place] ^= bit
        with pytest.raises(NotVerified):
            dsse.verify_envelope(dsse.decode_envelope(bytes(changed), "here"), [public])
    for other in (data[:-1], data + b"\n", b"", b"null", json.dumps(json.loads(data)).encode()):
        with pytest.raises(NotVerified):
            dsse.decode_envelope(other, "here")
