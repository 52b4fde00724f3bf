"""Tell which pictures below a storage root are kept longer than they may be.

Runs of one spec share their units, so a picture's time is over when it is over for every run that planned it, counted from the
newest start or decision of all of these. How a run counted a picture says how long it is kept: as a clear where every detector
found it clear, else as a hit. What is unassessed, and what nobody judged, is no clear.

Pictures of a run that is not finished, or whose files are not what is on record, stay, also where other runs share them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from audit import identity
from audit.errors import JournalError
from audit.evidence.purge import pending, plans_of, runs_by_unit
from audit.evidence.removal import Candidate, complete, files_of
from audit.index import integrity
from audit.index.published import open_published
from audit.index.store import Replaceable, Store, explained
from audit.plan.document import KINDS, read_outline
from audit.progress.steps import counted
from audit.storage.journal import Journal, StorageUnavailable, UnitFile
from audit.storage.run_records import DECISIONS, RecordChanged, read_records
from audit.storage.threads import in_threads

# For each picture: in how many runs it was judged, whether it was clear in all of them, and in any.
_CLEARS = """
with seen as (
    select w.unit_key, w.run_key, o.image_id, bool_and(o.unfiltered = 'clear') as clear
    from wanted as w
    inner join planned_units as p on w.run_key = p.run_key and w.unit_key = p.unit_key and p.kind = 'generate'
    inner join outcomes as o on p.run_key = o.run_key and p.unit_id = o.unit_id
    group by all
)
select unit_key, image_id, count(*), bool_and(clear), bool_or(clear) from seen group by all
"""


@dataclasses.dataclass(frozen=True)
class Terms:
    """For how many days pictures are kept."""

    hits_after: int
    clears_after: int


@dataclasses.dataclass(frozen=True)
class Left:
    """A run whose pictures stay, and why."""

    run_id: str
    reason: str
    changed: bool = False  # it is not what is on record


@dataclasses.dataclass(frozen=True)
class Due:
    """The pictures whose time is over."""

    files: tuple[Candidate, ...]
    runs: Mapping[str, tuple[str, ...]]  # unit -> the runs that planned it
    clears: Mapping[str, frozenset[int]]  # unit -> the pictures that every run found clear
    left: tuple[Left, ...]
    held: int  # units that stay because a run that is left has planned them
    known: frozenset[str]  # the runs that were asked


@dataclasses.dataclass(frozen=True)
class _Clears:
    """The pictures of a unit that are clear in every run that planned it, and in any."""

    everywhere: frozenset[int] = frozenset()
    somewhere: frozenset[int] = frozenset()


class _ReadOnce(Journal):
    """A journal that compares each file with a record once, however many runs share it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._compared: dict[tuple[str, UnitFile], bool] = {}

    def holds(self, kind: str, file: UnitFile) -> bool:
        """Return whether the storage held exactly this file when it was first asked."""
        if (kind, file) not in self._compared:
            self._compared[kind, file] = super().holds(kind, file)
        return self._compared[kind, file]


def due_pictures(journal: Journal, database: Path, terms: Terms, now: dt.datetime) -> Due:
    """Return the pictures that are older than `terms` allow.

    Folds the runs that have such pictures into the index at `database`, which tells hits from clears, and puts files on
    record that an interrupted removal has replaced. Raises `EvidenceError` when a plan cannot be read, `StoreError` for the
    index, `JournalError` when the storage cannot be read.
    """
    plans = plans_of(journal, journal.runs())
    runs = runs_by_unit(plans)
    left: dict[str, Left] = {}
    since = _since(journal, plans, now, left)

    def free(keys: Collection[str]) -> list[str]:
        return [key for key in keys if not any(run_id in left for run_id in runs[key])]

    def age(key: str) -> dt.timedelta:
        return now - max(since[run_id] for run_id in runs[key])

    shortest, longest = (dt.timedelta(days=bound(terms.hits_after, terms.clears_after)) for bound in (min, max))
    old = _with_pictures(journal, [key for key in free(runs) if age(key) >= shortest])
    published = _folded(journal, database, _planned_by(old, runs), left) if old else None
    clears = _clears(published, {key: runs[key] for key in free(old)}) if published else {}

    def has_due(key: str) -> bool:
        """Return whether pictures of an old unit go; where only clears do, they may be gone, or there are none."""
        only_clears = terms.clears_after < terms.hits_after and age(key) < longest
        return not only_clears or bool(clears.get(key, _Clears()).everywhere - old[key])

    due = list(filter(has_due, free(old)))
    _check(journal, _planned_by(due, runs), left)  # reads whole files, so only of runs that lose some
    files = []
    going = free(due)
    for key in counted(going, "read pictures", len(going), "units"):
        rule = _rule(terms, age(key), clears.get(key, _Clears()))
        files += [file for file in files_of(journal, key, rule) if file.pictures]
    everywhere = {key: clears[key].everywhere for key in {file.key for file in files} & clears.keys()}
    held = len(runs) - len(free(runs))
    return Due(tuple(files), runs, everywhere, tuple(left.values()), held, frozenset(plans))


def _planned_by(keys: Collection[str], runs: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({run_id for key in keys for run_id in runs[key]})


def _rule(terms: Terms, age: dt.timedelta, clears: _Clears) -> Callable[[int], bool]:
    """Return what tells of each picture of a unit of some age whether it goes."""
    if age >= dt.timedelta(days=max(terms.hits_after, terms.clears_after)):
        return lambda image: True
    # In between: the time of one kind is over, and no run may count the picture as one of the other kind.
    if terms.clears_after < terms.hits_after:
        return lambda image: image in clears.everywhere
    return lambda image: image not in clears.somewhere


def _since(
    journal: Journal, plans: Mapping[str, Sequence[tuple[str, str]]], now: dt.datetime, left: dict[str, Left]
) -> dict[str, dt.datetime]:
    """Return when each finished run was started or last decided; the others are added to `left`."""
    done = {kind: journal.keys(kind) for kind in KINDS}
    since = {}
    for run_id, planned in plans.items():
        with _naming(run_id, left):
            complete(journal, run_id, now)
            if count := pending(planned, done):
                left[run_id] = Left(run_id, f"{count} of its {len(planned)} units are not complete")
                continue
            moments = [read_outline(journal, run_id).created_at]
            moments += [record.fields["at"] for record in read_records(journal, run_id, DECISIONS)]
            since[run_id] = max(_moment(text, run_id) for text in moments)
    return since


def _moment(text: str, run_id: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise JournalError("nobody can say how old it is: its plan names no time", where=f"run {run_id}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _with_pictures(journal: Journal, keys: Sequence[str]) -> dict[str, frozenset[int]]:
    """Return the units that have pictures left -> those that they have lost, by their headers: whole files are large."""

    def lost(key: str) -> frozenset[int] | None:
        """Return the pictures that a unit has lost; None when none is left."""
        try:
            purged = journal.header("generate", key).get("purged", {"left": 1})
        except StorageUnavailable:
            raise
        except JournalError:
            return frozenset()  # whoever compares it with the record names it
        return frozenset(purged.get("images", ())) if purged.get("left", 0) else None

    found = zip(keys, counted(in_threads(lost, keys), "read headers", len(keys), "units"), strict=True)
    return {key: images for key, images in found if images is not None}


def _check(journal: Journal, run_ids: Sequence[str], left: dict[str, Left]) -> None:
    reader = _ReadOnce(journal.root)
    for run_id in run_ids:
        with _naming(run_id, left):
            integrity.require_intact(reader, run_id)


@contextlib.contextmanager
def _naming(run_id: str, left: dict[str, Left]) -> Iterator[None]:
    """Add a run to `left` that a block cannot read. A storage that is out of reach is an error."""
    try:
        yield
    except StorageUnavailable:
        raise
    except JournalError as error:
        left[run_id] = Left(run_id, error.what, isinstance(error, RecordChanged))


def _folded(journal: Journal, database: Path, run_ids: Sequence[str], left: dict[str, Left]) -> Path:
    """Fold runs into the index and return the path of a published copy; one that another version filled is made anew."""

    def fold() -> Path:
        with Store(database) as store:
            for run_id in run_ids:
                with _naming(run_id, left):
                    store.consolidate(journal, run_id)
            return store.publish(database.parent / "published")

    try:
        return fold()
    except Replaceable:
        Store.rebuild(database, journal, keep_old=True)
        return fold()


def _clears(published: Path, units: Mapping[str, Sequence[str]]) -> dict[str, _Clears]:
    """Return the clear pictures of each unit, given the runs that planned it."""
    pairs = [(key, identity.int_key(run_id)) for key, run_ids in units.items() for run_id in run_ids]
    wanted = pa.table(
        {
            "unit_key": pa.array([key for key, _ in pairs], pa.string()),
            "run_key": pa.array([run_key for _, run_key in pairs], pa.int64()),
        }
    )
    con = open_published(published)
    try:
        with explained(published):
            con.register("wanted", wanted)
            rows = con.execute(_CLEARS).fetchall()
    finally:
        con.close()
    everywhere: dict[str, set[int]] = {}
    somewhere: dict[str, set[int]] = {}
    for key, image, judged, in_all, in_any in rows:
        if in_all and judged == len(units[key]):
            everywhere.setdefault(key, set()).add(image)
        if in_any:
            somewhere.setdefault(key, set()).add(image)
    return {key: _Clears(frozenset(everywhere.get(key, ())), frozenset(found)) for key, found in somewhere.items()}
