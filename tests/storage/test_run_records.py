"""Append-only records of a run: a chain that notices every change."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path

import pytest

from audit.identity import canonical
from audit.storage.journal import Journal
from audit.storage.run_records import RecordChanged, append, read_records

NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(str(tmp_path / "journal"))
    for number in range(3):
        append(
            journal, "run-1", "decisions", NOW + dt.timedelta(minutes=number), lambda earlier: {"said": len(earlier)}
        )
    return journal


def folder(journal: Journal) -> Path:
    return Path(journal.store.base) / "runs/run-1/decisions"


def test_records_come_back_in_order_and_carry_the_digest_of_the_one_before(journal: Journal) -> None:
    records = read_records(journal, "run-1", "decisions")
    assert [record.fields["said"] for record in records] == [0, 1, 2]
    assert [record.fields["previous"] for record in records] == [None, records[0].sha256, records[1].sha256]
    assert read_records(journal, "run-1", "others") == []


def test_no_record_is_written_when_there_is_nothing_to_say(journal: Journal) -> None:
    assert append(journal, "run-1", "decisions", NOW + dt.timedelta(hours=1), lambda earlier: None) is None
    assert len(read_records(journal, "run-1", "decisions")) == 3


def test_every_single_bit_and_every_truncation_is_noticed(journal: Journal) -> None:
    path = folder(journal) / "000003.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(changed))
        with pytest.raises(RecordChanged, match=r"000003\.json"):
            read_records(journal, "run-1", "decisions")
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordChanged, match=r"000003\.json"):
            read_records(journal, "run-1", "decisions")


def test_an_edit_with_a_fitting_digest_breaks_the_chain(journal: Journal) -> None:
    import hashlib

    path = folder(journal) / "000002.json"
    record = json.loads(path.read_bytes())["record"] | {"said": 7}
    digest = hashlib.sha256(canonical(record).encode()).hexdigest()
    path.write_bytes(canonical({"record": record, "sha256": digest}).encode() + b"\n")
    with pytest.raises(RecordChanged, match=r"follows another one(.|\n)*000003\.json"):
        read_records(journal, "run-1", "decisions")


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("000002.json", None, "missing"),
        ("000001.json", "000004.json", "moved or renamed"),
        ("000001.json", "notes.txt", "added"),
    ],
)
def test_missing_moved_and_added_files_are_named(journal: Journal, source: str, target: str | None, named: str) -> None:
    path = folder(journal) / source
    if target:
        (folder(journal) / target).write_bytes(path.read_bytes())
    else:
        path.unlink()
    with pytest.raises(RecordChanged, match=f"{named}(.|\n)*{target or source}"):
        read_records(journal, "run-1", "decisions")


def test_a_record_of_another_run_or_of_a_newer_version_is_refused(journal: Journal) -> None:
    import hashlib

    other = folder(journal).parent.parent / "run-2/decisions"
    other.mkdir(parents=True)
    (other / "000001.json").write_bytes((folder(journal) / "000001.json").read_bytes())
    with pytest.raises(RecordChanged, match="of run run-1"):
        read_records(journal, "run-2", "decisions")
    record = json.loads((folder(journal) / "000001.json").read_bytes())["record"] | {"version": 2, "run_id": "run-2"}
    digest = hashlib.sha256(canonical(record).encode()).hexdigest()
    (other / "000001.json").write_bytes(canonical({"record": record, "sha256": digest}).encode() + b"\n")
    with pytest.raises(RecordChanged, match="has version 2"):
        read_records(journal, "run-2", "decisions")


def test_a_clock_that_runs_backwards_is_refused_and_a_small_skew_is_not(journal: Journal) -> None:
    record = append(journal, "run-1", "decisions", NOW, lambda earlier: {"said": 3})
    assert record is not None and record.fields["at"] == "2026-11-28T12:02:00+00:00"
    with pytest.raises(RecordChanged, match="clock runs backwards"):
        append(journal, "run-1", "decisions", NOW - dt.timedelta(hours=1), lambda earlier: {"said": 4})


def test_writers_at_the_same_time_all_land(journal: Journal) -> None:
    def write(number: int) -> None:
        own = Journal(journal.root)
        append(own, "run-1", "decisions", NOW + dt.timedelta(hours=1), lambda earlier: {"said": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_records(journal, "run-1", "decisions")
    assert {record.fields["said"] for record in records[3:]} == set(range(10, 18))
