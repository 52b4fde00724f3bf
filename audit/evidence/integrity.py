"""Checks 1 to 3 of a bundle: who signed, what was signed, and whether every file is still the one that was sealed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509

from audit.errors import NotVerified
from audit.evidence import dsse, sealed_waivers
from audit.evidence.bag import ATTESTATIONS, TAG_MANIFEST, Bag, differences, lies_at
from audit.evidence.keys import PublicKey, moment, stamp
from audit.evidence.lines import Answer, Line, of_error, ok, unchecked, wrong
from audit.evidence.seal import PREDICATE, VERDICT, VERDICT_TIME
from audit.evidence.sealed_registration import signers
from audit.evidence.sign import REVIEW
from audit.evidence.timestamps import check_stamp
from audit.files import Document

_OFFICER = re.compile(rf"{ATTESTATIONS}/officer(-[0-9]+)?\.dsse\.json")
_AT_ONCE = dt.timedelta(days=1)
_TIME_STAMP = re.compile(rf"{ATTESTATIONS}/[A-Za-z0-9.-]+\.tsr")


@dataclasses.dataclass
class Signatures:
    """What the signatures of a bundle say, filled by `check_signatures`."""

    facts: Document | None = None  # of the verdict's statement
    subject: str | None = None  # the digest of the tag manifest that was signed
    used: set[str] = dataclasses.field(default_factory=set)  # ids of keys that signed something


def check_keys(folder: Path, keys: Sequence[PublicKey]) -> Iterator[Line]:
    """Yield a line for each key that proves nothing because it came with the bundle."""
    for key in keys:
        if key.path.resolve().is_relative_to(folder.resolve()):
            yield Line(
                1,
                Answer.WRONG,
                "the key lies in the bundle: one that comes with what it signs proves nothing",
                key.path.name,
                "get the signer's public key from the signer",
            )


def check_signatures(
    bag: Bag,
    keys: Sequence[PublicKey],
    now: dt.datetime,
    signatures: Signatures,
    roots: Sequence[x509.Certificate] | None = None,
) -> Iterator[Line]:
    """Yield a line for each file of `attestations/`, and for each trusted key that signed nothing.

    With `roots`, time stamps must be by an authority under one of them, and the seal must have one.
    """
    if roots is not None and VERDICT_TIME not in bag.attestations:
        yield wrong(1, "there is no time stamp of the seal", VERDICT_TIME)
    if VERDICT not in bag.digests:
        yield wrong(1, "the file is missing", VERDICT)
    for name in bag.attestations:
        try:
            if name == VERDICT or _OFFICER.fullmatch(name):
                yield _signature(bag, name, keys, now, signatures)
            elif _TIME_STAMP.fullmatch(name):
                yield _time_stamp(bag, name, roots, signatures)
            else:
                yield wrong(1, "the file is no signature of a bundle", name)
        except NotVerified as error:
            yield of_error(1, error)
    if signatures.facts is not None and not any(_OFFICER.fullmatch(name) for name in bag.attestations):
        yield unchecked(1, "a review: beside the seal there is no signature of a person")
    # Of the policy's registration and of waivers, which checks 7 and 8 verify.
    signatures.used |= signers(bag) | sealed_waivers.signers(bag)
    for key in keys:
        if key.keyid not in signatures.used and signatures.facts is not None:
            yield Line(
                1,
                Answer.WRONG,
                f"the key {key.path.name} signed nothing here: its signature was removed, or it is of another bundle",
                ATTESTATIONS,
                "leave the key out if you do not expect its signature",
            )


def check_possession(signatures: Signatures, as_of: dt.datetime | None) -> Iterator[Line]:
    """Yield a line when the verifier claims to have had the bundle before it was sealed."""
    facts = signatures.facts
    if as_of is not None and facts is not None and _before(as_of, facts.get("sealed_at")):
        yield wrong(
            1, f"nobody had the bundle by {stamp(as_of)} (--as-of): it says that it was sealed {facts['sealed_at']}"
        )


def check_tag_manifest(bag: Bag, signatures: Signatures) -> Iterator[Line]:
    """Yield whether the list of lists is the one that was signed."""
    if signatures.subject is None:
        yield unchecked(2, "no signature says which list was signed")
    elif TAG_MANIFEST not in bag.digests:
        yield wrong(2, "the file is missing" + lies_at(_place(bag, signatures.subject)), TAG_MANIFEST)
    elif bag.digests[TAG_MANIFEST] != signatures.subject:
        elsewhere = lies_at(_place(bag, signatures.subject))
        yield wrong(2, f"the file is not the one that {VERDICT} was signed over{elsewhere}", TAG_MANIFEST)
    else:
        yield ok(2, f"{TAG_MANIFEST} is the one that was signed")


def check_files(bag: Bag) -> Iterator[Line]:
    """Yield a line for each file that is missing, added or changed."""
    problems = differences(bag)
    yield from (wrong(3, what, name) for name, what in problems)
    if not problems:
        yield ok(3, f"{len(bag.digests)} files, none changed, missing or added")


def _place(bag: Bag, digest: str) -> str | None:
    return next((name for name, other in bag.digests.items() if other == digest), None)


def _time_stamp(bag: Bag, name: str, roots: Sequence[x509.Certificate] | None, signatures: Signatures) -> Line:
    if roots is None:
        return unchecked(
            1, f"{name}: time stamps are read with --tsa-root, which names the authority's root certificates"
        )
    envelope = f"{name.removesuffix('.tsr')}.dsse.json"
    if envelope not in bag.attestations:
        raise NotVerified(f"there is no {envelope} that it could be about", where=name)
    time = check_stamp(bag.read(name), bag.read(envelope), roots, name)
    if name == VERDICT_TIME and signatures.facts is not None and _late(time, signatures.facts.get("sealed_at")):
        stated = signatures.facts.get("sealed_at")
        raise NotVerified(
            f"it is of {stamp(time)}, and the seal says {stated}: one of the clocks was wrong", where=name
        )
    return ok(1, f"{name}: {envelope} existed on {stamp(time)}, by an authority under a root that you trust")


def _late(time: dt.datetime, sealed_at: object) -> bool:
    """Return whether a seal was stamped long after the time that it states: sealing asks for the stamp at once."""
    try:
        return time > moment(str(sealed_at)) + _AT_ONCE
    except ValueError:
        return True


def _before(day: dt.datetime, sealed_at: object) -> bool:
    try:
        return day < moment(str(sealed_at))
    except ValueError:
        return True


def _signature(bag: Bag, name: str, keys: Sequence[PublicKey], now: dt.datetime, signatures: Signatures) -> Line:
    signed = dsse.verify_envelope(dsse.decode_envelope(bag.read(name), name), keys, where=name, now=now)
    subjects, facts = dsse.read_statement(signed.payload, PREDICATE if name == VERDICT else REVIEW, name)
    signatures.used |= {key.keyid for key in signed.signers}
    signer = signed.signers[0]
    by = f"{name} is signed by {signer.path.name} ({signer.keyid[:16]}...)"
    if name == VERDICT:
        signatures.facts, signatures.subject = facts, subjects.get(TAG_MANIFEST, "")
        return ok(1, by)
    if facts.get("file") != name:
        raise NotVerified(f"it was signed as {facts.get('file')}", where=name)
    if not {TAG_MANIFEST, VERDICT} <= subjects.keys():
        raise NotVerified("it does not say what was signed", where=name)
    for other, digest in subjects.items():
        if bag.digests.get(other) != digest:
            raise NotVerified(f"it was signed beside another {other} than the one that lies here", where=name)
    return ok(1, f"{by}: {facts.get('name')}, {facts.get('role')}: {facts.get('statement')}")
