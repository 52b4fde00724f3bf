"""Key files: who may read them, what opens them, and what is refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from audit.errors import KeyProblem
from audit.evidence import keys

LAST = dt.datetime(2027, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


def test_a_pair_is_written_once_and_only_its_owner_reads_the_private_half(tmp_path: Path) -> None:
    os_mask = os.umask(0)
    try:
        public = keys.generate(tmp_path / "seal.pem", not_after=LAST)
    finally:
        os.umask(os_mask)
    assert stat.S_IMODE((tmp_path / "seal.pem").stat().st_mode) == 0o600
    private = keys.load_private_key(tmp_path / "seal.pem")
    read = keys.load_public_key(public.path)
    assert public.path == tmp_path / "seal.pub"
    assert private.keyid == read.keyid == public.keyid
    assert private.not_after == read.not_after == LAST
    assert "PRIVATE" not in repr(private) and "key=" not in repr(private)
    before = (tmp_path / "seal.pem").read_bytes()
    with pytest.raises(KeyProblem, match="never overwritten"):
        keys.generate(tmp_path / "seal.pem")
    assert (tmp_path / "seal.pem").read_bytes() == before


def test_no_half_of_a_pair_is_left_where_the_other_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "seal.pub").write_text("somebody's")
    with pytest.raises(KeyProblem, match="never overwritten"):
        keys.generate(tmp_path / "seal.pem")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seal.pub"]
    with pytest.raises(KeyProblem, match="cannot be named"):
        keys.generate(tmp_path / "key.pub")
    with pytest.raises(KeyProblem, match="No such file"):
        keys.generate(tmp_path / "absent" / "key.pem")


@pytest.mark.parametrize("line", [b"\xef\xbb\xbfNot after: ", b"not after: ", b"  NOT AFTER : "])
def test_a_date_in_another_spelling_is_no_key_for_ever(tmp_path: Path, line: bytes) -> None:
    public = keys.generate(tmp_path / "seal.pem", not_after=LAST)
    data = public.path.read_bytes()
    assert data.count(b"Not after: ") == 1
    public.path.write_bytes(data.replace(b"Not after: ", line))
    assert keys.load_public_key(public.path).not_after == LAST


def test_the_key_id_is_what_openssl_and_coreutils_print(tmp_path: Path) -> None:
    public = keys.generate(tmp_path / "seal.pem", not_after=LAST)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", str(public.path), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(der).hexdigest() == public.keyid
    subprocess.run(["openssl", "pkey", "-in", str(tmp_path / "seal.pem"), "-noout"], check=True)


def test_a_passphrase_is_asked_for_or_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "seal.pem"
    keys.generate(path, passphrase="correct horse")
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    with pytest.raises(KeyProblem, match="needs its passphrase"):
        keys.load_private_key(path)
    assert keys.load_private_key(path, lambda: "correct horse").keyid
    with pytest.raises(KeyProblem, match="does not open"):
        keys.load_private_key(path, lambda: "wrong")
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    assert keys.load_private_key(path).keyid


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    pair = keys.generate(tmp_path / "seal.pem")
    with pytest.raises(KeyProblem, match="no private Ed25519 key"):
        keys.load_private_key(pair.path)
    with pytest.raises(KeyProblem, match="no public Ed25519 key"):
        keys.load_public_key(tmp_path / "seal.pem")
    other = generate_private_key(SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "ec.pub").write_bytes(other.public_bytes(serialization.Encoding.PEM, form))
    with pytest.raises(KeyProblem, match="no public Ed25519 key"):
        keys.load_public_key(tmp_path / "ec.pub")
    with pytest.raises(KeyProblem, match="cannot be read: it is a folder"):
        keys.load_public_key(tmp_path)
    with pytest.raises(KeyProblem, match="cannot be read: No such file"):
        keys.load_private_key(tmp_path / "absent.pem")


def test_a_date_that_cannot_be_read_does_not_mean_for_ever(tmp_path: Path) -> None:
    pair = keys.generate(tmp_path / "seal.pem", not_after=LAST)
    text = pair.path.read_text()
    pair.path.write_text(text.replace("2027-12-31T23:59:59Z", "next year"))
    with pytest.raises(KeyProblem, match="'next year'"):
        keys.load_public_key(pair.path)
    pair.path.write_text(text.replace("2027-12-31T23:59:59Z", "2027-06-30"))
    assert keys.load_public_key(pair.path).not_after == dt.datetime(2027, 6, 30, 23, 59, 59, tzinfo=dt.UTC)


def test_a_moment_that_utc_has_not_is_none() -> None:
    for text in ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"):
        with pytest.raises(ValueError, match="is no moment of the years"):
            keys.moment(text)


def test_a_key_in_a_repository_is_noticed(tmp_path: Path) -> None:
    assert keys.repository_of(tmp_path / "seal.pem") is None
    (tmp_path / ".git").mkdir()
    assert keys.repository_of(tmp_path / "deep" / "seal.pem") == tmp_path
