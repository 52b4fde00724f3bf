"""Pixels go, everything measured stays: rates, digests, sealed bundles; what others need is left."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from audit import run as steps
from audit.errors import EvidenceError, KeyProblem
from audit.evidence import keys
from audit.evidence.ledger import read_entries
from audit.evidence.lines import Answer
from audit.evidence.purge import candidates, purge
from audit.evidence.purge_records import earlier_files
from audit.evidence.registration import check_signatures
from audit.evidence.removal import Act
from audit.evidence.units import sealed_units
from audit.evidence.verify import verify
from audit.index import folded_files, integrity
from audit.index.queries import read_result
from audit.index.store import Store
from audit.storage.journal import Journal
from audit.storage.run_records import RecordChanged
from flows.cli import main
from tests.evidence.bundles import NOW, PLANNED, Audit, Bundle, key_pair, sealed
from tests.synthetic import Run, discard

ACT = Act("Ada", "the retention period of pixels is over")
LATER = NOW + dt.timedelta(days=90)


def clock() -> dt.datetime:
    return LATER


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return sealed(tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A run that is consolidated, and not sealed."""
    journal = Journal(str(tmp_path / "journal"))
    Audit().write(journal)
    consolidate(journal, tmp_path)
    return journal


def consolidate(journal: Journal, folder: Path, name: str = "index.duckdb") -> Path:
    with Store(folder / name) as store:
        store.consolidate(journal, "run-1")
        return store.publish(folder / f"published-{name}")


def contents(published: Path) -> dict[str, list[Any]]:
    """What the marts and the pictures' digests say."""
    with duckdb.connect(str(published), read_only=True) as con:
        names = ("mart_crr", "mart_samples", "mart_round_trip", "images", "outcomes")
        return {name: con.execute(f"from {name} order by all").fetchall() for name in names}


def picture_bytes(journal: Journal, run: Run) -> list[bytes]:
    """The files of the run's generate units."""
    units = [unit["key"] for unit in run.units.values() if unit["kind"] == "generate"]
    return [journal.store.get(f"units/generate/{key[:2]}/{key}.parquet") for key in units]


def whole(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rows.items() if name != "image"}


def test_pixels_are_gone_and_everything_else_is_as_it_was(journal: Journal, tmp_path: Path) -> None:
    before = contents(consolidate(journal, tmp_path))
    rows = {key: journal.read("generate", key).to_pylist() for key in journal.keys("generate")}
    assert any(b"PNG" in data for data in picture_bytes(journal, Audit()))
    chosen = candidates(journal, "run-1", LATER)
    assert (len(chosen.units), chosen.shared, chosen.pictures) == (len(rows), {}, sum(map(len, rows.values())))
    done = purge(journal, chosen, ACT, clock)
    assert done.freed > 0
    assert not any(mark in data for data in picture_bytes(journal, Audit()) for mark in (b"PNG", b"JFIF", b"WEBP"))
    for key, old in rows.items():
        new = journal.read("generate", key).to_pylist()
        assert [whole(row) for row in new] == [whole(row) for row in old]
        assert all(row["image"] is None for row in new)
    assert contents(consolidate(journal, tmp_path)) == before
    assert contents(consolidate(journal, tmp_path, "anew.duckdb")) == before


def test_a_purge_is_on_record_and_in_the_ledger(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = key_pair(tmp_path)
    done = purge(journal, candidates(journal, "run-1", LATER), ACT, clock, private)
    assert integrity.changes(journal, "run-1", read_all=True) == []
    (entry,) = read_entries(journal.store)
    said = entry.predicate
    assert (entry.kind, said["run_id"], said["reason"], said["kept"]) == ("purge", "run-1", ACT.reason, "digests")
    assert said["record_sha256"] == done.record_sha256
    assert said["purged_by"] == {"name": "Ada", "keyid": public.keyid}
    assert check_signatures([entry], [public]) == ([], [])
    assert set(earlier_files(journal, "run-1").values()) == {frozenset({unit.sha256}) for unit in done.candidates.units}
    assert main(["policy", "list", "--root", journal.root]) == 0
    assert "purge" in capsys.readouterr().out


def test_a_purge_without_a_key_is_in_the_ledger_as_one_that_nobody_signed(journal: Journal, tmp_path: Path) -> None:
    purge(journal, candidates(journal, "run-1", LATER), ACT, clock)
    _, public = key_pair(tmp_path)
    assert check_signatures(read_entries(journal.store), [public]) == ([], ["ledger/000001.json"])


@pytest.mark.slow
def test_a_bundle_that_was_sealed_before_still_verifies_and_says_what_it_cannot_check(bundle: Bundle) -> None:
    purge(bundle.journal, candidates(bundle.journal, "run-1", LATER), ACT, clock)
    found = verify(bundle.folder, [bundle.public], now=LATER, journal=bundle.journal)
    assert [line for line in found.lines if line.answer is Answer.WRONG] == []
    unchecked = [line.detail for line in found.lines if line.answer is Answer.UNCHECKED and line.number == 10]
    assert any("they were purged since, on record" in detail for detail in unchecked)
    assert not any(
        file.has_pixels
        for file in sealed_units(
            bundle.journal, "run-1", folded_files.on_record(bundle.journal, "run-1").units, PLANNED
        ).files
    )
    key = Audit().key("generate", 1)
    path = Path(bundle.journal.store.path(f"units/generate/{key[:2]}/{key}.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    found = verify(bundle.folder, [bundle.public], now=LATER, journal=bundle.journal)
    assert [line.where for line in found.lines if line.answer is Answer.WRONG] == [
        f"units/generate/{key[:2]}/{key}.parquet"
    ]


def test_units_of_other_runs_are_left_and_named(journal: Journal, tmp_path: Path) -> None:
    run = Audit()
    shared = run.key("generate", 0)
    for name in ("plan.json", "cases.parquet", "provenance.json", "manifest.parquet"):
        journal.put_run("run-2", name, journal.get_run("run-1", name))
    units = pq.read_table(io.BytesIO(journal.get_run("run-1", "units.parquet")))
    sink = io.BytesIO()
    pq.write_table(units.filter(pc.equal(units["key"], shared)), sink)
    journal.put_run("run-2", "units.parquet", sink.getvalue())
    chosen = candidates(journal, "run-1", LATER)
    assert chosen.shared == {shared: ("run-2",)}
    purge(journal, chosen, ACT, clock)
    assert all(row["image"] for row in journal.read("generate", shared).to_pylist())
    assert not any(row["image"] for row in journal.read("generate", run.key("generate", 1)).to_pylist())
    with pytest.raises(EvidenceError, match="its 1 units with pictures are other runs' too"):
        purge(journal, candidates(journal, "run-1", LATER), ACT, clock)
    journal.put_run("run-2", "units.parquet", b"PAR1")
    with pytest.raises(EvidenceError, match="nobody can say which pictures the run run-2 needs"):
        candidates(journal, "run-1", LATER)


def test_pictures_that_nobody_has_judged_are_not_removed(journal: Journal, tmp_path: Path) -> None:
    fresh = Journal(str(tmp_path / "fresh"))
    run = Audit()
    run.write(fresh)
    discard(fresh, "detect", run.key("detect", 0))
    with pytest.raises(EvidenceError, match="1 units of this run are not complete"):
        candidates(fresh, "run-1", LATER)


def test_a_run_whose_files_were_changed_is_not_purged(journal: Journal) -> None:
    run = Audit()
    run.rewrite(journal, "generate", 0, {0: {"pixel_sha256": "0" * 64}})
    with pytest.raises(RecordChanged, match="is not what the run's record says"):
        candidates(journal, "run-1", LATER)


def test_a_purge_that_was_killed_is_completed_by_the_next(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    original, written = journal.store.put, []

    def put(name: str, data: bytes) -> None:
        written.append(name)
        if len(written) == 2:
            raise KeyboardInterrupt
        original(name, data)

    chosen = candidates(journal, "run-1", LATER)
    with monkeypatch.context() as patch:
        patch.setattr(journal.store, "put", put)
        with pytest.raises(KeyboardInterrupt):
            purge(journal, chosen, ACT, clock)
    assert integrity.changes(journal, "run-1")
    rest = candidates(journal, "run-1", LATER)
    assert len(rest.units) == len(chosen.units) - 1 and rest.bare == 1
    purge(journal, rest, ACT, clock)
    assert integrity.changes(journal, "run-1") == []
    assert len(read_entries(journal.store)) == 2


def test_a_key_that_signs_no_more_leaves_nothing_on_record(journal: Journal, tmp_path: Path) -> None:
    """Else every bundle would say that pictures were purged which are all there."""
    keys.generate(tmp_path / "old.pem", not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    chosen = candidates(journal, "run-1", clock())
    with pytest.raises(KeyProblem, match="expired"):
        purge(journal, chosen, ACT, clock, keys.load_private_key(tmp_path / "old.pem"))
    assert earlier_files(journal, "run-1") == {}


def test_a_file_that_changes_meanwhile_stops_the_purge(journal: Journal) -> None:
    chosen = candidates(journal, "run-1", LATER)
    run = Audit()
    run.rewrite(journal, "generate", 0, {0: {"pixel_sha256": "0" * 64}})
    before = picture_bytes(journal, run)
    with pytest.raises(EvidenceError, match="has changed since its pictures were counted"):
        purge(journal, chosen, ACT, clock)
    assert picture_bytes(journal, run) == before and read_entries(journal.store) == []


def test_reports_say_that_pictures_were_purged(journal: Journal, tmp_path: Path) -> None:
    published = consolidate(journal, tmp_path)
    result = read_result(published, "run-1")
    before = steps.report(journal, result, tmp_path / "before")["html"].read_text()
    purge(journal, candidates(journal, "run-1", LATER), ACT, clock)
    after = steps.report(journal, result, tmp_path / "after")["html"].read_text()
    assert "purged" not in before and "picture purged" in after


def test_the_command_asks_first_and_then_removes(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evidence", "purge", "run-1", "--keep", "digests", "--reason", ACT.reason, "--root", journal.root]
    before = picture_bytes(journal, Audit())
    assert main(words) == 2
    assert "would go, and nothing brings them back" in capsys.readouterr().err
    assert picture_bytes(journal, Audit()) == before
    assert main([*words[:-4], "--reason", "short", "--root", journal.root, "--yes"]) == 2
    assert "a purge says why" in capsys.readouterr().err
    assert main([*words, "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["purged"] and document["shared"] == {} and document["freed"] > 0
    assert main([*words, "--yes"]) == 2
    assert "no picture of this run can be removed" in capsys.readouterr().err
