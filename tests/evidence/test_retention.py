"""Pictures go when their time is over for every run that planned them: clears first, hits later, on record in each run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from audit.errors import EvidenceError
from audit.evidence import retention
from audit.evidence.ledger import read_entries
from audit.evidence.purge_records import bare_files, earlier_files
from audit.evidence.registration import check_signatures
from audit.evidence.removal import Act, unit_name
from audit.evidence.retention import RetentionReport, Terms, apply_retention, preview_retention
from audit.evidence.units import sealed_units
from audit.index import folded_files, integrity
from audit.index.store import Store
from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.bundles import Audit, decide, key_pair, published
from tests.synthetic import cell, control, discard, instrument

DAY = dt.timedelta(days=1)
START = dt.datetime.now(dt.UTC).replace(microsecond=0)  # of the first night; the later ones are to come
ACT = Act("Ada", "the retention period of pixels is over")
TERMS = Terms(hits_after=90, clears_after=30)
CELLS = (cell(0, 8), control(7, 4, "black"))
HITS, CLEAR, BLACK = range(3)  # units: pictures 0 to 2 of the first are hits; black pictures are never assessed


@dataclasses.dataclass
class Night(Audit):
    """One run of a spec that is audited every night: all of its units are those of the other nights."""

    cells: Any = CELLS
    unit_size: int = 4
    hits: int = 3
    planned_at: dt.datetime = START

    def __post_init__(self) -> None:
        name, self.run_id = self.run_id, "night"
        super().__post_init__()
        self.run_id = name

    def plan(self) -> dict[str, Any]:
        return {**super().plan(), "created_at": self.planned_at.isoformat()}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A finished run, 60 days before another of the same spec."""
    journal = Journal(str(tmp_path / "journal"))
    Night("run-1").write(journal)
    night(journal, "run-2", days=60)
    return journal


@pytest.fixture
def old(tmp_path: Path) -> Journal:
    """The same runs, both over a hundred days ago, for commands that look at the clock."""
    journal = Journal(str(tmp_path / "journal"))
    for run_id, days in (("run-1", -200), ("run-2", -140)):
        night(journal, run_id, days=days)
    return journal


def night(journal: Journal, run_id: str, days: int, **changes: Any) -> Night:
    """A later night, which finds every unit of the first."""
    run = Night(run_id, planned_at=START + days * DAY, **changes)
    run.write(journal)
    return run


@pytest.fixture
def keep(journal: Journal, tmp_path: Path) -> Callable[..., RetentionReport]:
    """Applies retention so many days after the first night."""

    def apply(days: float, terms: Terms = TERMS, **changes: Any) -> RetentionReport:
        moment = START + days * DAY
        return apply_retention(journal, tmp_path / "index.duckdb", terms, ACT, lambda: moment, **changes)

    return apply


def stored(journal: Journal) -> dict[int, set[int]]:
    """The places of the pictures that are left in each unit."""
    units = [Night().key("generate", number) for number in (HITS, CLEAR, BLACK)]
    tables = [journal.read("generate", key).to_pylist() for key in units]
    return {number: {n for n, row in enumerate(rows) if row["image"]} for number, rows in enumerate(tables)}


def purges(journal: Journal) -> Mapping[str, Mapping[str, Any]]:
    return {str(entry.predicate["run_id"]): entry.predicate for entry in read_entries(journal.store)}


WHOLE = {HITS: {0, 1, 2, 3}, CLEAR: {0, 1, 2, 3}, BLACK: {0, 1, 2, 3}}
ONLY_HITS = {HITS: {0, 1, 2}, CLEAR: set(), BLACK: {0, 1, 2, 3}}
NOTHING: dict[int, set[int]] = {HITS: set(), CLEAR: set(), BLACK: set()}


def test_clears_go_first_and_hits_later_counted_from_the_newest_run(
    journal: Journal, keep: Callable[..., RetentionReport]
) -> None:
    rows = {key: journal.read("generate", key).drop_columns("image") for key in journal.keys("generate")}
    assert keep(60 + 29.9).pictures == 0 and stored(journal) == WHOLE and purges(journal) == {}
    first = keep(60 + 30)
    assert (first.hits, first.clears, first.units, first.removed) == (0, 5, 2, True)
    assert stored(journal) == ONLY_HITS
    again = keep(60 + 31)
    assert again.pictures == 0 and not again.removed
    last = keep(60 + 90)
    assert (last.hits, last.clears, last.units) == (7, 0, 2)
    assert stored(journal) == NOTHING
    assert keep(1000).pictures == 0
    assert all(journal.read("generate", key).drop_columns("image").equals(old) for key, old in rows.items())
    for run_id in ("run-1", "run-2"):
        assert integrity.changes(journal, run_id, read_all=True) == []


def test_every_run_that_planned_a_unit_has_each_pass_on_record(
    journal: Journal, keep: Callable[..., RetentionReport], tmp_path: Path
) -> None:
    original = {journal.file("generate", key).sha256 for key in journal.keys("generate")}
    private, public = key_pair(tmp_path)
    first, last = keep(90, key=private), keep(150, key=private)
    for run_id in ("run-1", "run-2"):
        newest = {journal.file("generate", key).sha256 for key in journal.keys("generate")}
        chains = earlier_files(journal, run_id)
        assert newest <= chains.keys() and set().union(*(chains[digest] for digest in newest)) >= original
        assert len(chains[journal.file("generate", Night().key("generate", HITS)).sha256]) == 2
        assert bare_files(journal, run_id) == newest
    entries = read_entries(journal.store)
    assert [(e.predicate["run_id"], e.predicate["pictures"]) for e in entries] == [
        ("run-1", 5), ("run-2", 5), ("run-1", 7), ("run-2", 7)
    ]  # fmt: skip
    assert all(e.predicate["terms"] == {"hits_after": 90, "clears_after": 30} for e in entries)
    assert [one.record_sha256 for one in (*first.runs, *last.runs)] == [e.predicate["record_sha256"] for e in entries]
    assert check_signatures(entries, [public]) == ([], [])


def test_a_unit_with_pictures_left_is_not_sealed_as_one_without(
    journal: Journal, keep: Callable[..., RetentionReport]
) -> None:
    keep(90)
    files = sealed_units(journal, "run-1", folded_files.on_record(journal, "run-1").units, START).files
    names = {Night().key("generate", number): number for number in (HITS, CLEAR, BLACK)}
    assert {names[file.key]: file.has_pixels for file in files if file.kind == "generate"} == {
        HITS: True, CLEAR: False, BLACK: True
    }  # fmt: skip


def test_a_decision_begins_the_time_anew(old: Journal, tmp_path: Path) -> None:
    def due(days: int) -> int:
        return preview_retention(old, tmp_path / "index.duckdb", TERMS, dt.datetime.now(dt.UTC) + days * DAY).clears

    run = Night("run-1")
    assert due(0) == 5
    decide(run, old, published(run, old, tmp_path), tmp_path, frames=[])
    assert (due(29), due(30)) == (0, 5)


def test_one_run_that_counts_a_picture_as_a_hit_keeps_it(
    journal: Journal, keep: Callable[..., RetentionReport]
) -> None:
    """At another threshold every picture is one; without a judge nobody knows."""
    night(journal, "run-3", days=60, instruments=(instrument(threshold=0.01),))
    assert keep(60 + 30).pictures == 0 and stored(journal) == WHOLE
    assert keep(60 + 90).pictures == 12


def test_what_no_judge_of_a_run_saw_counts_as_a_hit(journal: Journal, keep: Callable[..., RetentionReport]) -> None:
    run = night(journal, "run-3", days=60)
    run.instruments = ()
    run.write_plan(journal)
    assert keep(60 + 30).pictures == 0 and stored(journal) == WHOLE


def test_hits_can_go_first(journal: Journal, keep: Callable[..., RetentionReport]) -> None:
    first = keep(60 + 30, Terms(hits_after=30, clears_after=90))
    assert (first.hits, first.clears) == (7, 0)
    assert stored(journal) == {HITS: {3}, CLEAR: {0, 1, 2, 3}, BLACK: set()}
    assert keep(60 + 90, Terms(hits_after=30, clears_after=90)).clears == 5


def test_an_unfinished_run_keeps_its_pictures_and_is_named(
    journal: Journal, keep: Callable[..., RetentionReport]
) -> None:
    run = Night("run-3", cells=CELLS[:1], planned_at=START)
    run._unit("detect", "ab" * 32, run.cases[0])
    run.write_plan(journal)
    found = keep(1000)
    assert [(one.run_id, one.reason) for one in found.left] == [("run-3", "1 of its 5 units are not complete")]
    assert (found.held, found.changed) == (2, False)
    assert stored(journal) == {**WHOLE, BLACK: set()}


def test_a_run_that_is_not_what_is_on_record_keeps_its_pictures_and_is_told(
    old: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Audit("other", cells=CELLS, unit_size=4, hits=3).write(old)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(old)
    Night("run-1").rewrite(old, "detect", 0, {0: {"error": "edited"}})
    words = ["retention", "apply", "--hits-after", "0", "--clears-after", "0", "--reason", ACT.reason]
    assert main([*words, "--root", old.root, "--yes", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert [(one["run_id"], one["changed"]) for one in document["left"]] == [("run-1", True), ("run-2", True)]
    assert [(one["run_id"], one["hits"] + one["clears"]) for one in document["runs"]] == [("other", 12)]
    assert stored(old) == WHOLE


def test_a_plan_that_cannot_be_read_stops_everything(journal: Journal, keep: Callable[..., RetentionReport]) -> None:
    journal.put_run("run-2", "units.parquet", b"PAR1")
    with pytest.raises(EvidenceError, match="nobody can say which pictures the run run-2 needs"):
        keep(1000)
    assert stored(journal) == WHOLE


SLOW = pytest.mark.slow
KILLED = (6, 8)  # between the files, and the two runs that note them
AT = [at if at in KILLED else pytest.param(at, marks=SLOW) for at in range(1, 9)]


@pytest.mark.parametrize("at", AT)
def test_one_that_was_killed_is_completed_by_the_next(
    journal: Journal, keep: Callable[..., RetentionReport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    """Killed before the n-th write of a record, an entry or a file."""
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
    writes = 0

    def stopping(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(name: str, data: bytes) -> Any:
            nonlocal writes
            writes += 1
            if writes == at:
                raise KeyboardInterrupt
            return original(name, data)

        return write

    with monkeypatch.context() as patch:
        for name in ("put", "put_new"):
            patch.setattr(journal.store, name, stopping(getattr(journal.store, name)))
        with pytest.raises(KeyboardInterrupt):
            keep(90)
    keep(90)
    assert stored(journal) == ONLY_HITS
    for run_id in ("run-1", "run-2"):
        assert integrity.changes(journal, run_id, read_all=True) == []
        assert journal.file("generate", Night().key("generate", CLEAR)).sha256 in bare_files(journal, run_id)


def test_a_run_that_is_planned_while_pictures_are_counted_keeps_them(
    journal: Journal, keep: Callable[..., RetentionReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = retention.due_pictures, []

    def counted(*arguments: Any) -> Any:
        due = original(*arguments)
        if not calls:
            night(journal, "run-3", days=150, cells=CELLS[:1])
        calls.append(due)
        return due

    monkeypatch.setattr(retention, "due_pictures", counted)
    found = keep(150)
    assert (found.pictures, [one.run_id for one in found.runs], len(calls)) == (4, ["run-1", "run-2"], 2)
    assert stored(journal) == {**WHOLE, BLACK: set()}


def test_a_run_that_is_folded_while_files_are_replaced_has_it_on_record(
    journal: Journal, keep: Callable[..., RetentionReport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, done = journal.store.put, []

    def put(name: str, data: bytes) -> None:
        if not done:
            done.append(name)
            night(journal, "run-3", days=150)
            with Store(tmp_path / "other.duckdb") as store:
                store.consolidate(journal, "run-3")
        original(name, data)

    monkeypatch.setattr(journal.store, "put", put)
    assert [one.run_id for one in keep(150).runs] == ["run-1", "run-2"]
    assert stored(journal) == NOTHING and len(bare_files(journal, "run-3")) == 3
    assert integrity.changes(journal, "run-3", read_all=True) == []
    assert set(purges(journal)) == {"run-1", "run-2", "run-3"}


def test_the_file_of_a_failed_try_loses_its_pictures_too(
    journal: Journal, keep: Callable[..., RetentionReport]
) -> None:
    key = Night().key("generate", HITS)
    journal.store.put(unit_name(key, complete=False), journal.store.get(unit_name(key)))
    for days, left in ((90, {0, 1, 2}), (150, set())):
        keep(days)
        data = journal.store.get(unit_name(key, complete=False))
        discarded = Path(journal.store.path(unit_name(key)))
        kept = discarded.read_bytes()
        discard(journal, "generate", key)
        journal.store.put(unit_name(key, complete=False), data)
        rows = journal.read("generate", key).to_pylist()
        assert {number for number, row in enumerate(rows) if row["image"]} == left
        journal.store.put(unit_name(key), kept)


def test_a_preview_removes_nothing(journal: Journal, tmp_path: Path) -> None:
    found = preview_retention(journal, tmp_path / "index.duckdb", TERMS, START + 90 * DAY)
    assert (found.removed, found.clears, found.hits, [one.entry for one in found.runs]) == (False, 5, 0, [None, None])
    assert stored(journal) == WHOLE and purges(journal) == {}


def test_the_command_asks_first_and_is_done_when_nothing_is_left(
    old: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["retention", "apply", "--hits-after", "90", "--clears-after", "30", "--root", old.root, "--reason"]
    assert main([*words, "short"]) == 2
    assert "a purge says why" in capsys.readouterr().err
    assert main([*words, ACT.reason]) == 2
    said = capsys.readouterr()
    assert "12 pictures would go, and nothing brings them back. Remove them with --yes" in said.err
    assert "due      12 pictures (7 hits, 5 clears) of 3 units" in said.out and stored(old) == WHOLE
    assert main([*words, ACT.reason, "--yes"]) == 0
    assert "removed  12 pictures (7 hits, 5 clears) of 3 units" in capsys.readouterr().out
    assert stored(old) == NOTHING
    assert main([*words, ACT.reason]) == 0
    assert "due      0 pictures" in capsys.readouterr().out
    assert main([*words[:2], "--hits-after", "-1", *words[4:], ACT.reason]) == 2
