"""Verify a bundle on any machine: no GPU, no network, no journal and no pixels are needed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509

from audit.errors import EvidenceError
from audit.evidence import content as contents
from audit.evidence.bag import scan
from audit.evidence.content import Content, guarded
from audit.evidence.integrity import (
    Signatures,
    check_files,
    check_keys,
    check_possession,
    check_signatures,
    check_tag_manifest,
)
from audit.evidence.journal_check import check_units
from audit.evidence.keys import PublicKey
from audit.evidence.lines import Answer, Line, unchecked
from audit.progress.steps import counted
from audit.storage.journal import Journal

CHECKS: Mapping[int, str] = {
    1: "signatures",
    2: "tag manifest",
    3: "files",
    4: "versions",
    5: "counts",
    6: "decisions",
    7: "policy and order",
    8: "waivers",
    9: "calibration",
    10: "units",
    11: "age",
}


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was checked, in order, and what the bundle says."""

    lines: tuple[Line, ...]
    run_id: str | None  # as signed; None where no trusted signature says it
    status: str | None  # the verdict as signed

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return all(line.answer is not Answer.WRONG for line in self.lines)


def verify(
    folder: Path,
    keys: Sequence[PublicKey],
    *,
    now: dt.datetime,
    as_of: dt.datetime | None = None,
    journal: Journal | None = None,
    most_days: int | None = None,
    roots: Sequence[x509.Certificate] | None = None,
) -> Verification:
    """Return one line or more for each of `CHECKS`.

    Only `keys` are trusted, each of which must have signed something. `as_of` is the day by which the verifier had the
    bundle, for keys that have expired since. With `journal`, the files of its units are compared too; with
    `roots`, the seal must have a time stamp by an authority under one of them. Raises
    `EvidenceError` when there is no folder.
    """
    if not folder.is_dir():
        raise EvidenceError("there is no bundle", where=str(folder), next_step="name the folder that was sealed")
    bag, signatures = scan(folder), Signatures()
    lines = list(check_keys(folder, keys))
    if not lines:
        lines += check_signatures(bag, keys, as_of or now, signatures, roots)
    lines += check_possession(signatures, as_of)
    lines += check_tag_manifest(bag, signatures)
    lines += check_files(bag)
    facts = signatures.facts
    if facts is not None and all(line.answer is not Answer.WRONG for line in lines):
        with tempfile.TemporaryDirectory(prefix="erasure-audit-") as name:
            lines += _content(Content(bag, facts, Path(name)), journal, now, most_days, keys)
    else:
        lines += [unchecked(number, "the checks before it do not hold") for number in CHECKS if number > 3]
    run_id, status = (facts.get("run_id"), facts.get("status")) if facts else (None, None)
    return Verification(tuple(lines), run_id, status)


def _content(
    content: Content, journal: Journal | None, now: dt.datetime, most_days: int | None, keys: Sequence[PublicKey]
) -> list[Line]:
    lines = list(guarded(4, contents.check_versions(content)))
    if any(line.answer is Answer.WRONG for line in lines):
        return lines + [unchecked(number, "the versions are not known") for number in CHECKS if number > 4]
    checks = (
        (5, contents.check_counts(content)),
        (6, contents.check_decisions(content)),
        (7, contents.check_policy(content, now, keys)),
        (8, contents.check_waivers(content, now, keys)),
        (9, contents.check_calibration(content)),
        (10, check_units(content, journal)),
        (11, contents.check_age(content, now, most_days)),
    )
    for number, check in counted(checks, "verify", len(checks), "checks"):
        lines += guarded(number, check)
    return lines
