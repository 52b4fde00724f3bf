"""A second signature on a bundle: a person who reviewed it, in which role, and what that person says."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from pathlib import Path

from audit.errors import EnvironmentProblem, EvidenceError
from audit.evidence import dsse
from audit.evidence.bag import ATTESTATIONS, TAG_MANIFEST, differences, scan
from audit.evidence.keys import PrivateKey, stamp
from audit.evidence.seal import PREDICATE, VERDICT
from audit.files import place

REVIEW = "review/v1"
STATEMENT = "I reviewed the files named here and the verdict. I did not repeat the tests."
REVIEWED = ("data/report.html", "data/verdict.json")
_LONGEST = 2000  # characters of each text


def sign(
    folder: Path,
    key: PrivateKey,
    name: str,
    role: str,
    now: dt.datetime,
    *,
    statement: str = STATEMENT,
    reviewed: Sequence[str] = REVIEWED,
) -> Path:
    """Add a signature to a bundle and return its file; what was sealed stays as it is, and earlier signatures too.

    Raises `EvidenceError` when a file of the bundle is not the one that was sealed, `reviewed` names none of its files, or
    the person already signed with this key; `KeyProblem` for an expired key.
    """
    for what, text in (("name", name), ("role", role), ("statement", statement)):
        if not text.strip() or len(text) > _LONGEST or not text.isprintable():
            raise EvidenceError(f"the {what} is empty, longer than {_LONGEST} characters, or not one line of text")
    if not folder.is_dir():
        raise EvidenceError(
            "there is no bundle", where=str(folder), next_step="make one: erasure-audit evidence seal RUN_ID"
        )
    bag = scan(folder)
    problems = [*differences(bag), *([] if VERDICT in bag.digests else [(VERDICT, "the file is missing")])]
    if problems:
        raise EvidenceError(
            f"{problems[0][0]}: {problems[0][1]}",
            where=str(folder),
            next_step="sign what was sealed: erasure-audit evidence verify BUNDLE --key KEY says what is wrong with it",
        )
    for path in reviewed:
        if path not in bag.digests:
            raise EvidenceError(f"the bundle has no file {path!r} that could be reviewed", where=str(folder))
    _require_sealed(folder, bag.digests[TAG_MANIFEST])
    subjects = {TAG_MANIFEST: bag.digests[TAG_MANIFEST], VERDICT: bag.digests[VERDICT]}
    predicate = {
        "name": name.strip(),
        "role": role.strip(),
        "statement": statement.strip(),
        "reviewed": sorted(set(reviewed)),
        "signed_at": stamp(now),
    }
    payload = dsse.statement(subjects, REVIEW, predicate)
    data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key))
    target = _free(folder)
    try:
        place(target, lambda path: path.write_bytes(data))
    except OSError as error:
        raise EnvironmentProblem(f"the signature cannot be written: {error.strerror}", where=str(target)) from None
    return target


def _require_sealed(folder: Path, tag_manifest: str) -> None:
    """Return when the seal is over these files; whose key it is, the reviewer finds out with `evidence verify`."""
    envelope = dsse.decode_envelope((folder / VERDICT).read_bytes(), VERDICT)
    subjects, _ = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, VERDICT)
    if subjects.get(TAG_MANIFEST) != tag_manifest:
        raise EvidenceError(f"{VERDICT} was signed over other files", where=str(folder))


def _free(folder: Path) -> Path:
    """The first name that no signature has."""
    names = (f"{ATTESTATIONS}/officer{f'-{n}' if n > 1 else ''}.dsse.json" for n in itertools.count(1))
    return next(folder / name for name in names if not (folder / name).exists())
