"""Keys: Ed25519 pairs in PEM files, and the date after which they may not sign any more.

A private key is PKCS #8, a public one SubjectPublicKeyInfo, so OpenSSL reads both. Lines of text before a PEM block are
allowed by RFC 7468 and skipped by OpenSSL; `Not after:` there is the key's last second. The public file is the one that a
verifier trusts: its date counts, whatever a bundle says of itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import KeyProblem
from audit.files import ForeignError, read_bounded

PASSPHRASE = "ERASURE_AUDIT_KEY_PASSPHRASE"  # the environment variable's name
_LARGEST = 16_384  # bytes of a key file
_NOT_AFTER = re.compile(r"^[\s\ufeff]*Not[ \t]*after[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_PREAMBLE = re.compile(rb"-----BEGIN ")


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """A key that a verifier trusts, with the file it came from."""

    key: Ed25519PublicKey
    path: Path
    not_after: dt.datetime | None = None  # UTC; None: for ever

    @property
    def keyid(self) -> str:
        """SHA-256 of its SubjectPublicKeyInfo, 64 hex digits."""
        return keyid(self.key)


@dataclasses.dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    key: Ed25519PrivateKey = dataclasses.field(repr=False)
    path: Path
    not_after: dt.datetime | None = None  # UTC; None: for ever

    @property
    def keyid(self) -> str:
        """The id of its public half."""
        return keyid(self.key.public_key())

    def require_valid(self, now: dt.datetime) -> None:
        """Return while the key may sign. Raises `KeyProblem` after its last second."""
        if self.not_after is not None and now > self.not_after:
            raise KeyProblem(
                f"the key expired on {stamp(self.not_after)} and signs no more",
                where=str(self.path),
                next_step="make a new pair: erasure-audit evidence keygen FILE",
            )


def keyid(public: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo, 64 hex digits: `openssl pkey -pubin -outform DER | sha256sum`."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def stamp(moment: dt.datetime) -> str:
    """Return a moment as ISO 8601 in UTC, to the second."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> dt.datetime:
    """Return the moment that ISO 8601 text names; without an offset it is UTC, a date alone is its last second.

    Raises `ValueError`.
    """
    value = dt.datetime.fromisoformat(text)
    if re.fullmatch(r"\d{4}-?\d\d-?\d\d", text):
        value = value.replace(hour=23, minute=59, second=59)
    try:
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is no moment of the years 1 to 9999 in UTC") from None


def public_path(private: Path) -> Path:
    """Return where the public half of a new key is written: beside it, `.pub` for its suffix."""
    return private.with_suffix(".pub")


def generate(path: Path, *, passphrase: str | None = None, not_after: dt.datetime | None = None) -> PublicKey:
    """Write a new pair, the private half to `path` with mode 0600 and the public half beside it; return the latter.

    Raises `KeyProblem` when either file is there already or cannot be written; nothing is left of the pair then.
    """
    key, public = Ed25519PrivateKey.generate(), public_path(path)
    if public == path:
        raise KeyProblem(
            "a private key cannot be named .pub", where=str(path), next_step="name the file KEY.pem, for instance"
        )
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    text = f"Not after: {stamp(not_after)}\n".encode() if not_after else b""
    pem = serialization.Encoding.PEM
    private_bytes = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
    public_bytes = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    heading = f"erasure-audit public key {keyid(key.public_key())}\n".encode()
    _create(path, text + private_bytes, 0o600)
    try:
        _create(public, heading + text + public_bytes, 0o644)
    except KeyProblem:
        path.unlink()
        raise
    return PublicKey(key.public_key(), public, not_after)


def repository_of(path: Path) -> Path | None:
    """Return the git repository that a file lies in, from where keys are published by accident; None outside of one."""
    folders = path.absolute().resolve().parents
    return next((folder for folder in folders if (folder / ".git").exists()), None)


def load_private_key(path: Path, ask: Callable[[], str] | None = None) -> PrivateKey:
    """Return the private key in a PEM file; `ask` gives the passphrase when the environment does not. Raises `KeyProblem`."""
    data = _read(path)
    try:
        key = _private(data, None)
    except TypeError:  # it is encrypted
        passphrase = os.environ.get(PASSPHRASE) or (ask() if ask else "")
        if not passphrase:
            raise KeyProblem(
                "the key needs its passphrase", where=str(path), next_step=f"set {PASSPHRASE}, or run in a terminal"
            ) from None
        try:
            key = _private(data, passphrase)
        except (ValueError, TypeError):
            raise KeyProblem("the passphrase does not open the key", where=str(path)) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _foreign(path, "private") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _foreign(path, "private")
    return PrivateKey(key, path, _not_after(data, path))


def load_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM file. Raises `KeyProblem`."""
    data = _read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _foreign(path, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _foreign(path, "public")
    return PublicKey(key, path, _not_after(data, path))


def _private(data: bytes, passphrase: str | None) -> object:
    return serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _LARGEST)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ForeignError as error:
        reason = str(error)
    raise KeyProblem(
        f"the key cannot be read: {reason}",
        where=str(path),
        next_step="make one with: erasure-audit evidence keygen FILE",
    )


def _foreign(path: Path, half: str) -> KeyProblem:
    other = " (a public key verifies; sealing takes the private one)" if half == "private" else ""
    return KeyProblem(
        f"this is no {half} Ed25519 key in a PEM file{other}",
        where=str(path),
        next_step="make a pair with: erasure-audit evidence keygen FILE",
    )


def _not_after(data: bytes, path: Path) -> dt.datetime | None:
    """Return the date in the text before the key; raises `KeyProblem` for one that cannot be read, which must not mean never."""
    head = _PREAMBLE.split(data, maxsplit=1)[0].decode("utf-8", "replace")
    dates = _NOT_AFTER.findall(head)
    if not dates:
        return None
    with contextlib.suppress(ValueError):
        return min(moment(date) for date in dates)
    raise KeyProblem(
        f"the date after 'Not after:' cannot be read: {dates[0][:40]!r}",
        where=str(path),
        next_step="write it as 2027-12-31T23:59:59Z",
    )


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with exactly this mode. Raises `KeyProblem` when there is one or it cannot be written."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, mode)  # the umask may have taken more
            stream.write(data)
            stream.flush()
            os.fsync(handle)
    except FileExistsError:
        raise KeyProblem(
            "a key is never overwritten, and this file is there already", where=str(path), next_step="name another file"
        ) from None
    except OSError as error:
        raise KeyProblem(f"the key cannot be written: {error.strerror}", where=str(path)) from None
