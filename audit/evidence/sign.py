"""A second signature on a bundle: a person who reviewed it, in which role, and what that person says."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Sequence
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

    Raises `EvidenceError` when a file of the bundle is not the one that was sealed, or `reviewed` names none of its
    files; `KeyProblem` for an expired key.
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
    target = next(name for name in officer_files() if name not in bag.digests)
    # Earlier signatures are named too, so that none of them can be taken away later.
    subjects = {name: bag.digests[name] for name in (TAG_MANIFEST, *bag.attestations)}
    predicate = {
        "file": target,
        "name": name.strip(),
        "role": role.strip(),
        "statement": statement.strip(),
        "reviewed": sorted(set(reviewed)),
        "signed_at": stamp(now),
    }
    payload = dsse.statement(subjects, REVIEW, predicate)
    data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key))
    try:
        place(folder / target, lambda path: path.write_bytes(data))
    except OSError as error:
        raise EnvironmentProblem(f"the signature cannot be written: {error.strerror}", where=target) from None
    return folder / target


def _require_sealed(folder: Path, tag_manifest: str) -> None:
    """Return when the seal is over these files; whose key it is, the reviewer finds out with `evidence verify`."""
    envelope = dsse.decode_envelope((folder / VERDICT).read_bytes(), VERDICT)
    subjects, _ = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, VERDICT)
    if subjects.get(TAG_MANIFEST) != tag_manifest:
        raise EvidenceError(f"{VERDICT} was signed over other files", where=str(folder))


def officer_files() -> Iterator[str]:
    """Yield the names of second signatures, in the order in which they are given."""
    for number in itertools.count(1):
        yield f"{ATTESTATIONS}/officer{f'-{number}' if number > 1 else ''}.dsse.json"
