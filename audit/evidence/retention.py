"""Remove pictures whose time is over, of every run below a storage root: clears and hits after times of their own.

Rows, scores, reports and digests stay, and each run has on record what it lost (`removal`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from audit.evidence.due_pictures import Due, Left, Terms, due_pictures
from audit.evidence.keys import PrivateKey
from audit.evidence.removal import Act, Clock, Part, PlannedMeanwhile, Removed, remove
from audit.files import Document
from audit.storage.journal import Journal

__all__ = ["Left", "RetentionReport", "RunShare", "Terms", "apply_retention", "preview_retention"]

_TRIES = 3  # runs that may be planned while pictures are counted


@dataclasses.dataclass(frozen=True)
class RunShare:
    """What one run loses; a unit that several runs planned counts for each. Without a removal there is no record."""

    run_id: str
    units: int
    hits: int  # pictures that are no clears
    clears: int
    record_sha256: str | None = None
    entry: int | None = None  # number in the ledger


@dataclasses.dataclass(frozen=True)
class RetentionReport:
    """What was removed, or would be."""

    at: str  # ISO 8601, UTC
    terms: Terms
    removed: bool
    units: int
    hits: int
    clears: int
    freed: int  # bytes
    runs: tuple[RunShare, ...]
    left: tuple[Left, ...]
    held: int  # units that stay because a run that is left has planned them

    @property
    def pictures(self) -> int:
        """The number of pictures in the report, each counted once."""
        return self.hits + self.clears

    @property
    def changed(self) -> bool:
        """Whether a run was left because it is not what is on record."""
        return any(one.changed for one in self.left)

    def as_document(self) -> Document:
        """Return it as a JSON object."""
        return {**dataclasses.asdict(self), "pictures": self.pictures}


def preview_retention(journal: Journal, database: Path, terms: Terms, now: dt.datetime) -> RetentionReport:
    """Return what `apply_retention` would remove at `now`. Raises as `due_pictures`."""
    return _report(due_pictures(journal, database, terms, now), terms, now)


def apply_retention(
    journal: Journal, database: Path, terms: Terms, act: Act, clock: Clock, key: PrivateKey | None = None
) -> RetentionReport:
    """Remove every picture that is older than `terms` allow, on record, and return what was removed.

    `key` signs the ledger's entries. One that was killed goes on when it is called again. Raises as `due_pictures` and
    `remove`; nothing is on record then.
    """
    act.require_reason()
    if key is not None:
        key.require_valid(clock())
    tries = 0
    while True:
        now = clock()
        due = due_pictures(journal, database, terms, now)
        if not due.files:
            return _report(due, terms, now)
        try:
            removed, freed = remove(journal, _parts(due, terms), due.known, act, clock, key)
        except PlannedMeanwhile:
            tries += 1
            if tries == _TRIES:
                raise
        else:
            return _report(due, terms, now, removed, freed)


def _parts(due: Due, terms: Terms) -> list[Part]:
    stated = dataclasses.asdict(terms)
    run_ids = sorted({run_id for file in due.files for run_id in due.runs[file.key]})
    return [
        Part(
            run_id,
            tuple(file for file in due.files if run_id in due.runs[file.key]),
            {"shared": [], "terms": stated},
            {"shared": 0, "terms": stated},
        )
        for run_id in run_ids
    ]


def _report(
    due: Due, terms: Terms, now: dt.datetime, removed: Sequence[Removed] | None = None, freed: int = 0
) -> RetentionReport:
    places = {one.run_id: one for one in removed or ()}
    pictures = {(file.key, image) for file in due.files for image in file.images}
    clears = {(key, image) for key, image in pictures if image in due.clears.get(key, ())}
    shares = []
    for run_id in sorted({run_id for file in due.files for run_id in due.runs[file.key]}):
        own = {(key, image) for key, image in pictures if run_id in due.runs[key]}
        place, clear = places.get(run_id), len(own & clears)
        shares.append(
            RunShare(
                run_id, len({key for key, _ in own}), len(own) - clear, clear,
                place.record_sha256 if place else None, place.entry.number if place else None,
            )
        )  # fmt: skip
    return RetentionReport(
        at=now.isoformat(timespec="seconds"),
        terms=terms,
        removed=removed is not None,
        units=len({file.key for file in due.files}),
        hits=len(pictures) - len(clears),
        clears=len(clears),
        freed=freed,
        runs=tuple(shares),
        left=due.left,
        held=due.held,
    )
