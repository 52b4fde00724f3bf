"""Named baselines of a storage root: the runs that later ones are compared with, on record.

    baselines/{name}/000001.json    which run, who chose it, when and why

A name is given once; giving it to another run takes an explicit replacement with a reason, and the earlier records stay. A
record holds the digest of the run's record of folded files, so that a run whose files were replaced since is noticed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib

from pydantic import TypeAdapter, ValidationError

from audit.errors import SpecError
from audit.files import Document
from audit.index.integrity import require_intact
from audit.plan.document import read_outline
from audit.spec.base import Name
from audit.storage.journal import Journal
from audit.storage.run_records import (
    DECISIONS,
    FOLDED,
    Chain,
    Record,
    RecordChanged,
    append_to,
    read_chain,
    read_records,
)

_FOLDER = "baselines"
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SHORTEST_REASON, _LONGEST_REASON = 8, 500


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a name stands for now."""

    name: str
    run_id: str
    number: int  # of the record: 1 for a name that was never given anew
    sha256: str  # of the record
    at: str  # ISO 8601, UTC
    by: str
    reason: str
    verdict: str | None  # of the run's newest decision at that time
    folded_sha256: str


def set_baseline(
    journal: Journal, name: str, run_id: str, by: str, now: dt.datetime, *, reason: str = "", replace: bool = False
) -> Baseline:
    """Give a run a name and return the baseline; the same run under the same name again changes nothing.

    The run's files must be on record and intact. Raises `SpecError` for a name of another form or that is a run's id, for a name
    that stands for another run unless `replace` is set and says why, and for a run that no decision is on record of;
    `JournalError` for an unknown or derived run and `RecordChanged` for one whose files were changed.
    """
    _require_name(name)
    if name in journal.runs():
        raise SpecError("this name is the id of a run", where=name, next_step="choose another name for the baseline")
    read_outline(journal, run_id).require_own_pictures()
    require_intact(journal, run_id)
    folded, decisions = (read_records(journal, run_id, series) for series in (FOLDED, DECISIONS))
    if not folded or not decisions:
        raise SpecError(
            "no decision is on record of this run",
            where=f"run {run_id}",
            next_step=f"decide it first: erasure-audit gate {run_id}",
        )
    if (replace or reason) and not _SHORTEST_REASON <= len(reason.strip()) <= _LONGEST_REASON:
        raise SpecError(
            f"a replacement says why, in {_SHORTEST_REASON} to {_LONGEST_REASON} characters",
            where="--reason",
            next_step="write a sentence for who reads it in two years",
        )
    fields = {
        "run_id": run_id,
        "by": by,
        "reason": reason.strip(),
        "verdict": decisions[-1].fields["verdict"]["status"],
        "folded_sha256": folded[-1].sha256,
    }

    def content(earlier: list[Record]) -> Document | None:
        """Return the new baseline; None when the run is the baseline already."""
        if not earlier:
            return fields
        standing = _of(name, earlier[-1])
        if standing.run_id == run_id:
            return None
        if not replace:
            raise SpecError(
                f"the baseline {name} is {standing.run_id} since {standing.at}, set by {standing.by}",
                where=name,
                next_step=f"choose another name, or replace it on record: erasure-audit baseline set {name} {run_id} "
                '--replace --reason "..."',
            )
        return fields

    append_to(journal, _chain(name), now, content)
    return read_baseline(journal, name)


def read_baseline(journal: Journal, name: str) -> Baseline:
    """Return what a name stands for. Raises `SpecError` for an unknown one, `RecordChanged` for a record that was changed."""
    _require_name(name)
    records = read_chain(journal, _chain(name))
    if not records:
        known = _names(journal)
        close = difflib.get_close_matches(name, known, 1)
        raise SpecError(
            f"there is no baseline {name!r}" + (f"; did you mean {close[0]}?" if close else ""),
            where=journal.store.url(_FOLDER),
            next_step="list them with: erasure-audit baseline list; make one with: erasure-audit baseline set NAME RUN_ID",
        )
    return _of(name, records[-1])


def baselines(journal: Journal) -> list[Baseline]:
    """Return every record of every baseline, by name and oldest first. Raises `RecordChanged` for one that was changed."""
    return [_of(name, record) for name in _names(journal) for record in read_chain(journal, _chain(name))]


def require_standing(journal: Journal, baseline: Baseline) -> None:
    """Return when the baseline's run still has the record that it had when it was named. Raises `RecordChanged` otherwise."""
    known = {record.sha256 for record in read_records(journal, baseline.run_id, FOLDED)}
    if baseline.folded_sha256 not in known:
        raise RecordChanged(
            f"the run {baseline.run_id} no longer has the record of files that it had as baseline {baseline.name}",
            where=journal.store.url(f"runs/{baseline.run_id}/{FOLDED}"),
            next_step="restore the run from a copy of the journal",
        )


def resolve(journal: Journal, named: str) -> tuple[str, Baseline | None]:
    """Return the run that `named` means, which is a run's id or a baseline's name, and the baseline.

    Raises `SpecError` for what is neither, and for what is both.
    """
    is_run = named in journal.runs()
    is_baseline = _is_name(named) and bool(read_chain(journal, _chain(named)))
    if is_run and is_baseline:
        raise SpecError(
            f"{named!r} is a run and a baseline", where="--against", next_step="give the baseline another name"
        )
    if is_run:
        return named, None
    if is_baseline:
        baseline = read_baseline(journal, named)
        return baseline.run_id, baseline
    raise SpecError(
        f"{named[:128]!r} is neither a run nor a baseline below this root",
        where="--against",
        next_step="list them with: erasure-audit db runs, and erasure-audit baseline list",
    )


def _of(name: str, record: Record) -> Baseline:
    names = ("run_id", "at", "by", "reason", "verdict", "folded_sha256")
    return Baseline(
        name=name, number=record.number, sha256=record.sha256, **{field: record.fields[field] for field in names}
    )


def _names(journal: Journal) -> list[str]:
    return sorted(name for name, _ in journal.store.entries(_FOLDER) if _is_name(name))


def _chain(name: str) -> Chain:
    return Chain(f"{_FOLDER}/{name}", "baseline", name)


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def _require_name(name: str) -> None:
    if not _is_name(name):
        raise SpecError(
            f"{name[:80]!r} is no name of a baseline",
            where="NAME",
            next_step="use up to 64 small letters, digits and . _ + -, a letter or digit first",
        )
