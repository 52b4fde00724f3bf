"""Waivers in a bundle: the signed files as they are, and whether they are about what was sealed."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import EvidenceError, NotVerified
from audit.evidence import dsse
from audit.evidence.bag import Bag
from audit.evidence.keys import PublicKey
from audit.evidence.lines import Line, ok, unchecked, wrong
from audit.evidence.waivers import PREDICATE, waiver_of
from audit.files import ForeignError, read_bounded
from audit.verdict.waivers import Waiver, not_counting

if TYPE_CHECKING:
    from audit.evidence.redaction import Redaction

FOLDER = "waivers"
_LARGEST = 1 << 20  # bytes of a waiver file


def waiver_files(
    paths: Sequence[Path], run_id: str, policy_sha256: str, plan_sha256: str | None, redaction: Redaction
) -> dict[str, bytes]:
    """Return the files of a bundle that hold these waivers; their signatures are checked by who verifies.

    Raises `EvidenceError` for one that is about another run, plan or policy, or quotes what a bundle must not hold, and
    `NotVerified` for one that is no waiver.
    """
    files = {}
    for number, path in enumerate(paths, 1):
        try:
            data = read_bounded(path, _LARGEST)
        except (OSError, ForeignError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise EvidenceError(f"the waiver cannot be read: {reason}", where=str(path)) from None
        envelope = dsse.decode_envelope(data, path.name)
        subjects, fields = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, path.name)
        about = (fields.get("run_id"), subjects.get("policy"), subjects.get("plan"))
        for name, stated, own in zip(
            ("run", "policy", "plan"), about, (run_id, policy_sha256, plan_sha256), strict=True
        ):
            if stated != own and own is not None:
                raise EvidenceError(
                    f"the waiver is for another {name} than the decision that is sealed",
                    where=str(path),
                    next_step="leave it out, or seal the decision that it is for with --decision",
                )
        if redaction.value(fields) != fields:
            raise EvidenceError(
                "the waiver quotes a prompt of a sensitive concept, and a bundle must not hold one",
                where=str(path),
                next_step="have it written again in other words",
            )
        files[f"{FOLDER}/{number:02d}.json"] = data
    return files


def listed(files: dict[str, bytes]) -> list[dict[str, str]]:
    """Return the list of a bundle's waivers: file and SHA-256."""
    return [{"file": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]


def signers(bag: Bag) -> set[str]:
    """Return the ids of the keys that signed the waivers in a bundle, as these say."""
    ids: set[str] = set()
    for name in _names(bag):
        try:
            signatures = dsse.decode_envelope(bag.read(name), name)["signatures"]
        except NotVerified:
            continue
        ids |= {str(one["keyid"]) for one in signatures if isinstance(one, dict) and "keyid" in one}
    return ids


def check(
    bag: Bag, stated: object, run_id: str, policy_sha256: str, plan_sha256: str | None, sealed_at: dt.datetime,
    now: dt.datetime, keys: Sequence[PublicKey],
) -> Iterator[Line]:  # fmt: skip
    """Yield whether the waivers of a bundle are signed, about what was sealed, and unexpired. Raises `NotVerified`."""
    names = _names(bag)
    if stated != [{"file": name.removeprefix("data/"), "sha256": bag.digests[name]} for name in names]:
        yield wrong(8, "the list of waivers does not name the files that are here", "data/waivers.json")
    elif not names:
        yield ok(8, "there are no waivers")
    known = {key.keyid for key in keys}
    for name in names:
        by = {str(one["keyid"]) for one in dsse.decode_envelope(bag.read(name), name)["signatures"]}
        if not by <= known:
            unknown = min(by - known)[:16]
            yield unchecked(8, f"{name}: whether {unknown}... signed it (name that public key with --key)")
            continue
        waiver = waiver_of(bag.read(name), name, keys, sealed_at, plan_sha256)
        if problem := not_counting(waiver, sealed_at, run_id, policy_sha256):
            yield wrong(8, f"it did not count when the bundle was sealed: {problem}", name)
        else:
            yield ok(8, _described(waiver, now))


def _described(waiver: Waiver, now: dt.datetime) -> str:
    cells = " and ".join(str(selection) for selection in waiver.cells)
    since = f"until {waiver.date}" if now <= waiver.until else f"until {waiver.date}, so that it counts no more"
    return f"waiver for {cells}, {since}: owner {waiver.owner}, approved by {waiver.approver}; it changes no status"


def _names(bag: Bag) -> list[str]:
    return sorted(name for name in bag.digests if name.startswith(f"data/{FOLDER}/"))
