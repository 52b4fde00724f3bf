"""Remove the pixels of one run and keep everything that was measured: rows, scores, digests of the pictures.

Units that another run has planned too are left as they are, and named; `retention` removes what no run needs any longer.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from pydantic import JsonValue

from audit.errors import EvidenceError, JournalError
from audit.evidence.keys import PrivateKey
from audit.evidence.ledger import Entry
from audit.evidence.removal import Act, Candidate, Clock, Part, complete, files_of, remove
from audit.index import integrity
from audit.plan.document import KINDS, planned_keys
from audit.storage.journal import Journal


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What a purge would do to the units of a run."""

    run_id: str
    units: tuple[Candidate, ...]
    shared: Mapping[str, tuple[str, ...]]  # unit -> the other runs that planned it; they are left
    bare: int  # units that have no pictures any more, or never had any
    known: frozenset[str] = frozenset()  # the runs below the root

    @property
    def pictures(self) -> int:
        """The number of pictures that would be removed."""
        return sum(unit.pictures for unit in self.units)


@dataclasses.dataclass(frozen=True)
class Purged:
    """What a purge did."""

    candidates: Candidates
    freed: int  # bytes
    record_sha256: str
    entry: Entry


def candidates(journal: Journal, run_id: str, now: dt.datetime) -> Candidates:
    """Return which units of a run would lose their pictures, and which are another run's too.

    Files that an interrupted purge has replaced are first put on record as they are.

    Raises `RecordChanged` when a file of the run is not what is on record, `EvidenceError` when pictures are yet to be made or
    judged, or another run's plan cannot be read.
    """
    complete(journal, run_id, now)
    integrity.require_intact(journal, run_id)
    planned = planned_keys(journal, run_id)
    if count := pending(planned, {kind: journal.keys(kind) for kind in KINDS}):
        raise EvidenceError(
            f"{count} units of this run are not complete: pictures that nobody has judged would be lost",
            where=f"run {run_id}",
            next_step=f"finish it first: erasure-audit resume {run_id}",
        )
    own = [key for kind, key in planned if kind == "generate"]
    plans = plans_of(journal, [other for other in journal.runs() if other != run_id])
    others = runs_by_unit(plans)
    shared = {key: others[key] for key in own if key in others}
    files = [file for key in own if key not in shared for file in files_of(journal, key)]
    units = tuple(file for file in files if file.pictures)
    return Candidates(run_id, units, shared, len(files) - len(units), frozenset(plans))


def purge(journal: Journal, chosen: Candidates, act: Act, clock: Clock, key: PrivateKey | None = None) -> Purged:
    """Remove the pictures of the chosen units. A purge that was interrupted goes on when it is asked for again.

    Raises `EvidenceError` when there is nothing to remove, and as `removal.remove`; nothing is on record then.
    """
    if not chosen.units:
        raise EvidenceError(
            "no picture of this run can be removed"
            + (f": its {len(chosen.shared)} units with pictures are other runs' too" if chosen.shared else ""),
            where=f"run {chosen.run_id}",
        )
    shared: list[JsonValue] = [{"key": unit, "runs": list(runs)} for unit, runs in chosen.shared.items()]
    part = Part(chosen.run_id, chosen.units, {"shared": shared}, {"shared": len(shared)})
    (removed, *_), freed = remove(journal, [part], chosen.known, act, clock, key)
    return Purged(chosen, freed, removed.record_sha256, removed.entry)


def pending(planned: Sequence[tuple[str, str]], done: Mapping[str, Collection[str]]) -> int:
    """Return how many planned units are not complete; `done` has the keys of the complete ones by kind."""
    return sum(key not in done[kind] for kind, key in planned)


def plans_of(journal: Journal, run_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return (kind, key) of every planned unit of each of these runs. Raises `EvidenceError` when a plan cannot be read."""
    plans = {}
    for run_id in run_ids:
        try:
            plans[run_id] = planned_keys(journal, run_id)
        except JournalError as error:
            raise EvidenceError(
                f"nobody can say which pictures the run {run_id} needs: {error.what}",
                where=f"run {run_id}",
                next_step="restore its plan, or remove that run, before pictures are purged",
            ) from None
    return plans


def runs_by_unit(plans: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, tuple[str, ...]]:
    """Return generate unit -> the runs that planned it."""
    runs: dict[str, list[str]] = defaultdict(list)
    for run_id, planned in plans.items():
        for kind, key in planned:
            if kind == "generate":
                runs[key].append(run_id)
    return {key: tuple(names) for key, names in runs.items()}
