"""How far a run is, as the journal says: any machine that reads the storage root can ask, whoever computes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Sequence

from audit.plan.document import KINDS, planned_keys, read_outline
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, read_records

WINDOW = dt.timedelta(minutes=10)  # a rate is that of the units written in this time before the newest one
QUIET = dt.timedelta(minutes=30)  # a run of which nothing was written for so long is probably computed by nobody


@dataclasses.dataclass(frozen=True)
class StageStatus:
    """The planned units of one stage, those of them with a complete or a failed file, and units a second lately.

    `rate` is None when fewer than two units were written.
    """

    kind: str
    planned: int
    complete: int
    failed: int
    rate: float | None

    @property
    def seconds_left(self) -> float | None:
        """Return the time that the rest takes at this rate; None when there is no rate."""
        left = self.planned - self.complete
        if not left:
            return 0.0
        return left / self.rate if self.rate else None


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The stages of a run that have units, when a unit was written last, and the newest decision on record."""

    run_id: str
    created_at: str  # ISO 8601, UTC
    stages: tuple[StageStatus, ...]
    written_at: dt.datetime | None
    verdict: str | None
    decided_at: str | None

    @property
    def complete(self) -> bool:
        """Return whether every planned unit has a complete file."""
        return all(stage.complete == stage.planned for stage in self.stages)

    def quiet(self, now: dt.datetime) -> bool:
        """Return whether units are missing and none was written for a long time."""
        began = self.written_at or dt.datetime.fromisoformat(self.created_at)
        return not self.complete and now - began > QUIET


def run_status(journal: Journal, run_id: str) -> RunStatus:
    """Return how far a run is. Units that earlier runs computed count as complete, and not for the rate.

    Raises `JournalError` when there is no such run or the storage cannot be read, `RecordChanged` when a decision on record is
    not what was written.
    """
    outline = read_outline(journal, run_id)
    planned = planned_keys(journal, run_id)
    began = dt.datetime.fromisoformat(outline.created_at)
    counts = Counter(kind for kind, _ in planned)
    stages, newest = [], list[dt.datetime]()
    for kind in (kind for kind in KINDS if counts[kind]):
        keys = {key for of, key in planned if of == kind}
        listing = journal.listing(kind)
        complete = keys & listing.complete
        times = (listing.written.get(key) for key in complete)
        own = sorted(time for time in times if time and time >= began)
        newest += own[-1:]
        stages.append(StageStatus(kind, counts[kind], len(complete), len(keys & listing.failed), _rate(own)))
    decisions = read_records(journal, run_id, DECISIONS)
    return RunStatus(
        run_id,
        outline.created_at,
        tuple(stages),
        max(newest, default=None),
        str(decisions[-1].fields["verdict"]["status"]) if decisions else None,
        str(decisions[-1].fields["at"]) if decisions else None,
    )


def _rate(times: Sequence[dt.datetime]) -> float | None:
    """Return units a second in the window before the newest of the sorted times; None when they are too few to tell."""
    if len(times) < 2:
        return None
    lately = [time for time in times if time >= times[-1] - WINDOW]
    seconds = (lately[-1] - lately[0]).total_seconds()
    return (len(lately) - 1) / seconds if seconds > 0 else None
