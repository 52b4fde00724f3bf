"""The parts of a campaign of faults can fail: what they compare, what they draw, and the harm that they do."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from audit.index.store import Store, latest
from audit.storage.journal import Journal
from audit.storage.objects import ObjectStore
from tests import synthetic
from tests.chaos.campaign import table
from tests.chaos.comparison import compare, read_tables
from tests.chaos.faults import FAULTS
from tests.chaos.power_loss import folders_below, lose_power
from tests.chaos.rounds import Result, Results, draw
from tests.chaos.zygote import note_fsyncs


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published index with one run."""
    folder = tmp_path_factory.mktemp("index")
    journal = Journal(str(folder / "runs"))
    synthetic.Run().write(journal)
    with Store(folder / "audit.duckdb") as store:
        store.consolidate(journal)
        store.publish(folder / "published")
    return folder / "published"


def test_lost_doubled_and_changed_rows_are_told_apart(index: Path, tmp_path: Path) -> None:
    expected = read_tables(index, "run-1")
    assert sum(rows.total() for rows in expected.values()) > 20
    assert not compare(expected, read_tables(index, "run-1"))
    copy = tmp_path / "index-000001.duckdb"
    shutil.copyfile(latest(index), copy)
    with duckdb.connect(str(copy)) as con:
        con.execute("delete from outcomes where rowid in (select min(rowid) from outcomes)")
        con.execute("insert into instruments select * from instruments limit 1")
        con.execute("update crr set ci_high = ci_high - 0.001")
    found = read_tables(tmp_path, "run-1")
    for mart, kind in (("mart_samples", "lost"), ("mart_instruments", "doubled"), ("mart_crr", "changed")):
        difference = compare({mart: expected[mart]}, {mart: found[mart]})
        assert [name for name in ("lost", "doubled", "changed") if getattr(difference, name)] == [kind]
        assert difference.examples and difference


def test_a_changed_verdict_is_seen() -> None:
    row = '{"status": "%s", "reasons": "[]"}'
    before, after = ({"mart_verdicts": Counter([row % status])} for status in ("PASS", "FAIL"))
    assert compare(before, after).verdict
    assert compare(before, {"mart_verdicts": Counter()}).verdict
    assert not compare(before, before).verdict


def test_rounds_are_drawn_from_the_seed_and_reach_every_kind_and_stage() -> None:
    rounds = [draw(7, number, FAULTS) for number in range(4000)]
    assert rounds == [draw(7, number, FAULTS) for number in range(4000)]
    assert rounds[:50] != [draw(8, number, FAULTS) for number in range(50)]
    for fault in FAULTS:
        drawn = [round_ for round_ in rounds if round_.kind == fault.kind]
        assert {round_.stage for round_ in drawn} == set(fault.stages)
        assert {round_.storage for round_ in drawn} == set(fault.storages)
        assert {round_.engine for round_ in drawn} == set(fault.engines)
    assert draw(7, 3, FAULTS, "read-only").kind == "read-only"


def test_a_stopped_campaign_goes_on_with_the_rounds_that_have_no_result(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for number in (0, 1, 3):
        results.add(Result(draw(7, number, FAULTS), fired=True, seconds=number, examples=("a row",)))
    with results.path.open("a") as stream:
        stream.write('{"round": {"num')  # killed while it wrote
    again = Results(results.path)
    assert again.all == results.all
    assert (again.left(7, 6), again.left(8, 2)) == ([2, 4, 5], [0, 1])
    again.add(Result(draw(7, 2, FAULTS), fired=False))
    again.add(Result(draw(7, 0, FAULTS), fired=False))  # played again
    assert [(r.round.number, r.fired) for r in Results(results.path).all] == [
        (0, False),
        (1, True),
        (3, True),
        (2, False),
    ]


def test_a_fault_that_did_not_fire_counts_nowhere_but_among_the_rounds() -> None:
    drawn = draw(7, 0, FAULTS, "sigkill")
    one = Result(drawn, fired=True, lost=2, changed=1, verdict_changed=True, seconds=4.0)
    text = table([one, Result(drawn, fired=False, lost=9, stuck=True, seconds=2.0)])
    assert "| sigkill | 2 | 1 | 2 | 0 | 1 | 1 | 0 | 3 |" in text
    assert text.splitlines()[-1].startswith("| all | 2 | 1 |")


def test_power_loss_spares_what_was_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # goes back with the test
    log, home = tmp_path / "fsyncs", tmp_path / "home"
    home.mkdir()
    (home / "store").mkdir()
    (home / "before").write_bytes(b"x" * 100)
    time.sleep(0.05)
    since, old = time.time_ns(), folders_below(home)
    note_fsyncs(str(log))
    store = ObjectStore(str(home / "store"))
    for number in range(20):
        store.put(f"units/{number}/file", b"y" * 100)
        (home / f"loose-{number}").write_bytes(b"z" * 100)
    harmed = lose_power(home, log, since, old, random.Random(1))
    assert (home / "before").read_bytes() == b"x" * 100
    assert all(store.get(f"units/{number}/file") == b"y" * 100 for number in range(20))
    assert {word.split()[0] for word in harmed} == {"cut", "zeros", "lost"}
    assert all("loose-" in word or word == "lost the folder store/.tmp" for word in harmed) and len(harmed) > 5
