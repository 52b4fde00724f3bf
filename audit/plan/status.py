"""How far a run is, as the journal says: any machine that reads the storage root can ask, whoever computes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import heapq
import itertools
from collections import Counter
from collections.abc import Sequence

from audit.errors import JournalError
from audit.plan.document import KINDS, planned_keys, read_outline
from audit.storage.journal import Journal, StorageUnavailable
from audit.storage.run_records import DECISIONS, read_records
from audit.storage.threads import in_threads

WINDOW = dt.timedelta(minutes=10)  # a rate is that of the units written in this time before the newest one
QUIET = dt.timedelta(minutes=30)  # a run of which nothing was written for so long is probably computed by nobody
LATE = dt.timedelta(minutes=5)  # the shortest silence that is told of
_LATE_GAPS = 5  # so many times the usual time between two units
_ASKED = 64  # newest units whose files are asked who computed them


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
class WorkerStatus:
    """A machine and its device, how many of the newest units it wrote, and when the last of them."""

    host: str
    device: str
    units: int
    written_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The stages of a run that have units, when a unit was written last and by whom, and the newest decision on record.

    `workers` are those of the newest units, `gap` is the usual time between two of these.
    """

    run_id: str
    created_at: str  # ISO 8601, UTC
    stages: tuple[StageStatus, ...]
    written_at: dt.datetime | None
    verdict: str | None
    decided_at: str | None
    workers: tuple[WorkerStatus, ...] = ()
    gap: dt.timedelta | None = None

    @property
    def complete(self) -> bool:
        """Return whether every planned unit has a complete file."""
        return all(stage.complete == stage.planned for stage in self.stages)

    @property
    def decided(self) -> bool:
        """Return whether every unit was tried and a decision came after the last of them: nothing more is to be expected."""
        if self.decided_at is None or any(stage.complete + stage.failed < stage.planned for stage in self.stages):
            return False
        decided = dt.datetime.fromisoformat(self.decided_at)  # in whole seconds
        return self.written_at is None or decided >= self.written_at.replace(microsecond=0)

    def late(self, now: dt.datetime) -> dt.timedelta | None:
        """Return how long nothing was written where units are missing and they came much more often before; else None."""
        if self.complete or self.decided or self.written_at is None:
            return None
        silence = now - self.written_at
        return silence if silence > max(LATE, _LATE_GAPS * (self.gap or LATE)) else None

    def quiet(self, now: dt.datetime) -> bool:
        """Return whether units are missing and none was written for a long time."""
        began = self.written_at or dt.datetime.fromisoformat(self.created_at)
        return not self.complete and not self.decided and now - began > QUIET


def unplanned(journal: Journal, run_id: str) -> bool:
    """Return whether a run has begun and is not planned yet: it lists its corpus, or was stopped before it had a plan."""
    folder = f"runs/{run_id}"
    return journal.store.exists(f"{folder}/spec.yaml") and not journal.store.exists(f"{folder}/plan.json")


def run_status(journal: Journal, run_id: str) -> RunStatus:
    """Return how far a run is. Units that earlier runs computed count as complete, and not for the rate.

    Raises `JournalError` when there is no such run or the storage cannot be read, `RecordChanged` when a decision on record is
    not what was written.
    """
    outline = read_outline(journal, run_id)
    planned = planned_keys(journal, run_id)
    began = dt.datetime.fromisoformat(outline.created_at)
    counts = Counter(kind for kind, _ in planned)
    stages, newest = [], list[tuple[dt.datetime, str, str]]()
    for kind in (kind for kind in KINDS if counts[kind]):
        keys = {key for of, key in planned if of == kind}
        listing = journal.listing(kind)
        complete, failed = keys & listing.complete, keys & listing.failed
        times = {key: time for key in complete | failed if (time := listing.written.get(key)) and time >= began}
        newest = heapq.nlargest(_ASKED, [*newest, *((time, kind, key) for key, time in times.items())])
        rate = _rate(sorted(time for key, time in times.items() if key in complete))
        stages.append(StageStatus(kind, counts[kind], len(complete), len(failed), rate))
    decisions = read_records(journal, run_id, DECISIONS)
    return RunStatus(
        run_id,
        outline.created_at,
        tuple(stages),
        newest[0][0] if newest else None,
        str(decisions[-1].fields["verdict"]["status"]) if decisions else None,
        str(decisions[-1].fields["at"]) if decisions else None,
        _workers(journal, newest),
        _gap([time for time, _, _ in newest]),
    )


def _workers(journal: Journal, newest: Sequence[tuple[dt.datetime, str, str]]) -> tuple[WorkerStatus, ...]:
    """Return who wrote the newest units, newest first, as the complete ones say that are there still."""

    def runtime(unit: tuple[dt.datetime, str, str]) -> dict[str, object]:
        """Return the host and device that wrote a unit; nothing of one without a complete file."""
        _, kind, key = unit
        try:
            return dict(journal.header(kind, key).get("runtime", {}))
        except StorageUnavailable:
            raise
        except JournalError:
            return {}  # a failed unit, which has no complete file

    seen: dict[tuple[str, str], WorkerStatus] = {}
    for (time, _, _), facts in zip(newest, in_threads(runtime, newest), strict=True):
        if facts:
            host, device = str(facts.get("host")), str(facts.get("device"))
            one = seen.setdefault((host, device), WorkerStatus(host, device, 0, time))
            seen[host, device] = dataclasses.replace(one, units=one.units + 1)
    return tuple(seen.values())


def _rate(times: Sequence[dt.datetime]) -> float | None:
    """Return units a second in the window before the newest of the sorted times; None when they are too few to tell."""
    if len(times) < 2:
        return None
    lately = [time for time in times if time >= times[-1] - WINDOW]
    seconds = (lately[-1] - lately[0]).total_seconds()
    return (len(lately) - 1) / seconds if seconds > 0 else None


def _gap(times: Sequence[dt.datetime]) -> dt.timedelta | None:
    """Return the median time between two of the times, newest first; None when they are too few to tell."""
    gaps = [later - earlier for later, earlier in itertools.pairwise(times)]
    return sorted(gaps)[len(gaps) // 2] if gaps else None
