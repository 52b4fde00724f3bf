"""The index: the same answers however it was filled, clear errors, and a copy that others can read."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest

from audit.errors import JournalError, StoreError
from audit.index.integrity import accept_changes, withdraw_missing
from audit.index.queries import read_result, result_frames
from audit.index.sql_files import relations
from audit.index.store import Store, latest, published, set_aside
from audit.run import consolidate
from audit.spec.policy import Limit, Policy
from audit.storage.journal import Journal
from audit.verdict.decisions import VerdictStatus
from audit.verdict.gate import decide
from tests.synthetic import Run, cell, control, discard, instrument

LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "journal"))


def a_run(run_id: str = "run-1", **fields: Any) -> Run:
    cells = [cell(0, 10), cell(1, 6, **LATENT), control(2, 3, "black"), cell(3, 5, subject="disc", role="neighbour")]
    return Run(run_id, cells=cells, instruments=[instrument(), instrument("second", 12)], **fields)


def contents(path: Path) -> dict[str, list[Any]]:
    """Every table and mart of an index, in an order of its own; without the stamps of the files that it came from."""
    with duckdb.connect(str(path), read_only=True) as con:
        names = [*relations("schema"), *relations("marts")]
        con.execute("create temp view only_rows as select * exclude (stamp) from loaded_units")
        sources = {name: "only_rows" if name == "loaded_units" else name for name in names}
        return {name: con.execute(f"from {source} order by all").fetchall() for name, source in sources.items()}


def withdraw(journal: Journal, *run_ids: str) -> None:
    """Do what a resume does about units that are gone."""
    for run_id in run_ids or ("run-1",):
        assert withdraw_missing(journal, run_id, dt.datetime.now(dt.UTC), "tester")


def filled(path: Path, journal: Journal) -> dict[str, list[Any]]:
    with Store(path) as store:
        store.consolidate(journal)
    return contents(path)


def test_consolidating_twice_gives_the_same_and_loads_nothing(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        first = store.consolidate(journal)
        assert (first.runs, first.units > 0, first.rows > 0) == (1, True, True)
    before = contents(tmp_path / "index.duckdb")
    with Store(tmp_path / "index.duckdb") as store:
        again = store.consolidate(journal)
        assert (again.runs, again.units, again.rows) == (1, 0, 0)
    assert contents(tmp_path / "index.duckdb") == before


def test_rates_add_up(tmp_path: Path, journal: Journal) -> None:
    run = a_run()
    run.write(journal)
    run.rewrite(journal, "generate", 0, {1: {"status": "degenerate"}, 3: {"status": "blocked"}})
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        path = store.publish(tmp_path / "published")
    result = read_result(path, "run-1")
    crr = result.crr[0]
    assert (crr.planned, crr.assessed, crr.unassessed, crr.hits) == (10, 8, 2, 3)
    assert (crr.rate, crr.worst_case) == (3 / 8, 5 / 10)
    assert (crr.ci_low, crr.ci_high) == pytest.approx((0.0852, 0.7551), abs=1e-4)
    reasons = [(row.cell_id, row.detector, row.reason, row.cases) for row in result.unassessed]
    assert reasons[:2] == [(0, "judge", "blocked", 1), (0, "judge", "degenerate", 1)]
    assert [row.cell_id for row in result.round_trips] == [1]
    assert [i["detector"] for i in result.instruments] == ["judge", "second"]
    assert result.spec["name"] == "synthetic"
    assert result.provenance["host"] == "test"
    assert result.verdict.status is VerdictStatus.INCONCLUSIVE


def test_samples_show_hits_first_and_say_where_the_picture_is(tmp_path: Path, journal: Journal) -> None:
    run = a_run()
    run.write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        result = read_result(store.publish(tmp_path / "published"), "run-1", samples_per_cell=6)
    first = [sample for sample in result.samples if sample.cell_id == 0]
    assert [(s.case_no, s.outcome) for s in first] == [*((n, "hit") for n in (1, 3, 5, 7, 9)), (0, "clear")]
    images = journal.read("generate", first[0].unit_key, ["image_id"]).column("image_id").to_pylist()
    assert first[0].image_id in images


def test_piece_by_piece_is_the_same_as_at_once_and_as_rebuilt(tmp_path: Path, journal: Journal) -> None:
    first, second = a_run("run-1"), a_run("run-2", unit_size=3)
    path = tmp_path / "index.duckdb"
    first.write_plan(journal)
    filled(path, journal)
    first.write_units(journal, ["invert", "generate"])
    filled(path, journal)
    second.write(journal)
    first.write_units(journal, ["detect"])
    stepwise = filled(path, journal)
    assert stepwise == filled(tmp_path / "other.duckdb", journal)
    Store.rebuild(path, journal)
    assert contents(path) == stepwise
    assert [row[0] for row in stepwise["mart_runs"]] == ["run-1", "run-2"]


def test_a_failed_unit_counts_until_its_complete_file_replaces_it(tmp_path: Path, journal: Journal) -> None:
    run, path = a_run(), tmp_path / "index.duckdb"
    run.write(journal)
    complete = filled(tmp_path / "complete.duckdb", journal)
    run.rewrite(journal, "generate", 0, {0: {"status": "error", "error": "out of memory"}})
    withdraw(journal)
    failed = filled(path, journal)
    assert ("run-1", 0, "judge", "error", 1, "out of memory") in failed["mart_unassessed"]
    assert [row[-2:] for row in failed["mart_runs"]] == [(complete["mart_runs"][0][-2] - 1, 1)]
    assert filled(path, journal) == failed
    run.write_units(journal, ["generate"])
    assert filled(path, journal) == complete


def test_a_unit_that_was_computed_again_replaces_its_rows(tmp_path: Path, journal: Journal) -> None:
    """A damaged file is deleted as its message says, and resume writes one whose numbers differ in the last bits."""
    run, path = a_run(), tmp_path / "index.duckdb"
    run.write(journal)
    before = filled(path, journal)
    scores = [{"label": label, "score": 0.05 + 2**-40} for label in ("ring", "disc", "star")]
    run.rewrite(journal, "detect", 0, {0: {"scores": scores}})
    assert accept_changes(journal, "run-1", dt.datetime.now(dt.UTC), "computed again", "tester")
    with Store(path) as store:
        folded = store.consolidate(journal)
    assert (folded.units, folded.rows) == (1, 4)
    changed = contents(path)
    assert changed["scores"] != before["scores"]
    assert changed == filled(tmp_path / "new.duckdb", journal)
    assert filled(path, journal) == changed


def test_units_that_leave_the_journal_leave_the_index(tmp_path: Path, journal: Journal) -> None:
    run, path = a_run(), tmp_path / "index.duckdb"
    run.write(journal)
    filled(path, journal)
    discard(journal, "detect", run.key("detect", 0))
    withdraw(journal)
    changed = filled(path, journal)
    assert changed == filled(tmp_path / "new.duckdb", journal)
    assert ("run-1", 0, "judge", "missing", 4, None) in changed["mart_unassessed"]


def test_runs_that_share_units_change_together(tmp_path: Path, journal: Journal) -> None:
    first = a_run("run-1")
    first.write(journal)
    twin = a_run("run-1")  # plans the same units under another id
    twin.run_id = "run-2"
    twin.write_plan(journal)
    path = tmp_path / "index.duckdb"
    filled(path, journal)
    first.rewrite(journal, "detect", 0, {0: {"status": "error", "error": "boom", "scores": None}})
    withdraw(journal, "run-1", "run-2")
    with Store(path) as store:
        store.consolidate(journal, "run-1")
    changed = contents(path)
    rates = {(row[0], row[1], row[8]): row[12] for row in changed["mart_crr"]}
    assert rates["run-1", 0, "judge"] == rates["run-2", 0, "judge"] == 9
    assert changed == filled(tmp_path / "new.duckdb", journal)


def test_another_packing_of_the_same_cases_gives_the_same_rates(tmp_path: Path, journal: Journal) -> None:
    other = Journal(f"{journal.root}-2")
    a_run(unit_size=4).write(journal)
    a_run(unit_size=7).write(other)
    one, two = filled(tmp_path / "1.duckdb", journal), filled(tmp_path / "2.duckdb", other)
    for mart in ("mart_crr", "mart_unassessed", "mart_round_trip"):
        assert one[mart] == two[mart]


def test_a_killed_consolidation_is_finished_by_the_next(tmp_path: Path, journal: Journal) -> None:
    Run(cells=[cell(0, 120)], unit_size=2).write(journal)
    code = (
        "import sys; from audit.index import folding; from audit.index.store import Store\n"
        "from audit.storage.journal import Journal\n"
        "folding._CHUNK_UNITS = 10; load = folding.load_units\n"
        "def counted(*args): print('chunk', flush=True); return load(*args)\n"
        "folding.load_units = counted\n"
        "with Store(sys.argv[2]) as store: store.consolidate(Journal(sys.argv[1]))\n"
    )
    path = tmp_path / "index.duckdb"
    process = subprocess.Popen([sys.executable, "-c", code, journal.root, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(8):
        process.stdout.readline()
    process.kill()
    process.communicate()
    with Store(path) as store:
        folded = store.consolidate(journal)
    assert 0 < folded.units < 120
    assert contents(path) == filled(tmp_path / "new.duckdb", journal)


def test_other_thresholds_count_the_stored_scores_anew(tmp_path: Path, journal: Journal) -> None:
    """Reading under a policy gives what a run planned with these thresholds gives."""
    run = a_run()
    run.write(journal)
    strict = a_run()
    strict.rules = [{**rule, "threshold": 0.05} if rule["detector"] == "judge" else rule for rule in strict.rules]
    strict.confidence = 0.9
    other = Journal(f"{journal.root}-2")
    strict.write(other)
    policy = Policy(
        version="2", limits=(Limit(crr_max=0.1),), judges=("judge",), confidence=0.9, thresholds={"judge": 0.05}
    )
    results = []
    for source, name, wanted in ((journal, "a", policy), (other, "b", None)):
        with Store(tmp_path / f"{name}.duckdb") as store:
            store.consolidate(source)
            results.append(read_result(store.publish(tmp_path / name), "run-1", wanted))
    counted, planned = ([row for row in result.crr if row.assessed] for result in results)
    assert counted == planned
    assert counted[0].hits == 10
    assert results[0].unassessed == results[1].unassessed
    assert results[0].samples == results[1].samples
    assert decide(policy, results[0].crr, []).status is VerdictStatus.INCONCLUSIVE


def test_published_copies_are_versioned_and_do_not_disturb_readers(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    folder = tmp_path / "published"
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        first = store.publish(folder)
        killed, at_work = folder / "index.killed.tmp", folder / "index.at-work.tmp"
        killed.touch()
        os.utime(killed, (0, 0))
        at_work.touch()
        with duckdb.connect(str(first), read_only=True) as reader:
            for _ in range(4):
                for path in published(folder):
                    os.utime(path, (0, 0))
                last = store.publish(folder, keep=2)
            assert reader.execute("select count(*) from mart_crr").fetchall() == [(8,)]
    assert [path.name for path in published(folder)] == ["index-000004.duckdb", "index-000005.duckdb"]
    assert at_work.exists() and not killed.exists()
    assert last == latest(folder)
    assert os.stat(last).st_mode & 0o222 == 0
    assert read_result(last, "run-1").run_id == "run-1"
    rates, readings = result_frames(last, "run-1")
    assert (len(rates), set(readings["label"])) == (8, {"ring", "disc", "star"})


def test_a_full_disk_under_the_index_is_said_and_space_is_all_that_it_takes(tmp_path: Path, journal: Journal) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        Run(cells=[cell(0, 3000)], unit_size=1500).write(journal)
        for free in (1 << 19, 1 << 20, 3 << 19):  # full at one statement or another
            (folder / "filler").write_bytes(bytes((24 << 20) - free))
            with pytest.raises(StoreError, match=r"the disk is full"), Store(folder / "a.duckdb") as store:
                store.consolidate(journal)
            (folder / "filler").unlink()
        with Store(folder / "a.duckdb") as store:
            store.consolidate(journal)
            assert read_result(store.publish(folder / "published"), "run-1").crr[0].hits == 1500
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_two_indexes_that_publish_into_one_folder_at_once_lose_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copied, both = tmp_path / "published", Store._copy_to, threading.Barrier(2, timeout=60)

    def together(store: Store, quoted: str) -> None:
        copied(store, quoted)
        both.wait()

    monkeypatch.setattr(Store, "_copy_to", together)

    def publish(run_id: str) -> Path:
        journal = Journal(str(tmp_path / run_id))
        Run(run_id).write(journal)
        with Store(tmp_path / f"{run_id}.duckdb") as store:
            store.consolidate(journal)
            return store.publish(folder)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(publish, ["run-1", "run-2"]))
    assert sorted(paths) == [folder / "index-000001.duckdb", folder / "index-000002.duckdb"]
    assert [read_result(path, run_id).run_id for path, run_id in zip(paths, ["run-1", "run-2"], strict=True)]
    assert sorted(path.name for path in folder.iterdir()) == ["index-000001.duckdb", "index-000002.duckdb"]


def test_a_published_copy_has_the_storage_version_that_older_duckdb_opens(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        path = store.publish(tmp_path / "published")
    header = path.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") <= 68  # DuckDB 1.4 and 1.5 read versions 64 to 68


def test_an_index_that_another_process_holds_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_INDEX_WAIT", "0.2")
    path = tmp_path / "index.duckdb"
    code = "import sys; from audit.index.store import Store; s = Store(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(StoreError, match=f"open in process {holder.pid}"):
            Store(path)
        with pytest.raises(StoreError, match=f"open in process {holder.pid}"):
            Store.rebuild(path, Journal(str(tmp_path / "journal")))
    finally:
        holder.communicate()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped", "newer"])
def test_a_damaged_index_is_named_and_rebuilt(tmp_path: Path, journal: Journal, damage: str) -> None:
    a_run().write(journal)
    path = tmp_path / "index.duckdb"
    before = filled(path, journal)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[4096:12288] = bytes(byte ^ 0xFF for byte in data[4096:12288])
    if damage == "newer":
        path.unlink()
        with duckdb.connect(str(path)) as con:
            con.execute("create table index_version as select 'another' as digest")
    else:
        path.write_bytes({"garbage": b"x" * 8192, "truncated": data[:9000], "flipped": data}[damage])
    with pytest.raises(StoreError, match=r"corrupt|another version(.*\n)*.*erasure-audit db rebuild"):
        Store(path)
    Store.rebuild(path, journal)
    assert contents(path) == before


@pytest.mark.parametrize("problem", ["another version", "older tables", "corrupt"])
def test_a_run_rebuilds_an_index_that_it_cannot_go_on_with(
    tmp_path: Path, journal: Journal, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    a_run().write(journal)
    path = tmp_path / "index.duckdb"
    before = filled(path, journal)
    if problem == "corrupt":
        path.write_bytes(b"x" * 8192)
    else:
        with duckdb.connect(str(path)) as con:
            con.execute("update index_version set digest = 'another'")
            if problem == "older tables":
                con.execute("drop view mart_crr")
                con.execute("drop table outcomes")
                con.execute("create view outcomes as select 1 as one")
    old = path.read_bytes()
    assert read_result(consolidate(journal, "run-1", path), "run-1").crr
    assert contents(path) == before
    assert set_aside(path).read_bytes() == old
    assert "made anew from the journal" in caplog.text


def test_an_index_gets_the_marts_of_the_version_that_opens_it(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps them where they are this version's already: making them takes longer than all else at an opening."""
    a_run().write(journal)
    path = tmp_path / "index.duckdb"
    filled(path, journal)
    with duckdb.connect(str(path)) as con:
        con.execute("create or replace view mart_runs as select 'of another version' as run_id")
        con.execute("comment on table index_version is 'marts of another version'")
    with Store(path) as store:
        assert read_result(store.publish(tmp_path / "published"), "run-1").crr
    monkeypatch.setattr("audit.index.store.create_marts", lambda con: pytest.fail("they are there"))
    with Store(path) as store:
        assert read_result(store.publish(tmp_path / "published"), "run-1").crr


def test_unusable_places_are_said(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="folder cannot be used"):
        Store(tmp_path / "file" / "index.duckdb")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)
    with Store(tmp_path / "index.duckdb") as store, pytest.raises(StoreError, match="folder cannot be used"):
        store.publish(tmp_path / "file" / "published")
    with pytest.raises(StoreError, match="no published index here"):
        latest(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="there is no index here"):
        read_result(tmp_path / "none.duckdb", "run-1")


def test_unknown_runs_are_said(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        with pytest.raises(JournalError, match=r"has no plan\.json"):
            store.consolidate(journal, "run-9")
        store.consolidate(journal)
        path = store.publish(tmp_path / "published")
    with pytest.raises(StoreError, match="does not know the run 'run-9'; it knows: run-1"):
        read_result(path, "run-9")


def test_runs_of_one_system_form_a_series_and_those_without_one_have_their_name(
    tmp_path: Path, journal: Journal
) -> None:
    system = {"name": "Painter", "version": "2.1", "owner": "R. Fuchs", "contact": None}
    Run("run-1").write(journal)
    Run("run-2", system=system).write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        path = store.publish(tmp_path / "published")
    with duckdb.connect(str(path), read_only=True) as index:
        rows = index.execute("select run_id, system, system_version, owner, contact from mart_runs order by all")
        assert rows.fetchall() == [
            ("run-1", "synthetic", None, None, None),
            ("run-2", "Painter", "2.1", "R. Fuchs", None),
        ]


def test_a_plan_that_the_index_refuses_is_said_and_the_mended_one_is_folded_in(
    tmp_path: Path, journal: Journal
) -> None:
    a_run().write(journal)
    whole = journal.get_run("run-1", "plan.json")
    plan = json.loads(whole)
    plan["cells"][0]["defence"] = None
    with Store(tmp_path / "index.duckdb") as store:
        journal.put_run("run-1", "plan.json", json.dumps(plan).encode())
        with pytest.raises(JournalError, match=r"plan of run .run-1. is damaged: .*cells\.defence"):
            store.consolidate(journal, "run-1")
        journal.put_run("run-1", "plan.json", whole)
        assert store.consolidate(journal, "run-1").runs == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plan.json", b"{"),
        ("plan.json", b'{"run_id": "run-1"}'),
        ("cases.parquet", b"PAR1"),
        ("units.parquet", b""),
        ("provenance.json", b""),
        ("provenance.json", b"[]"),
        ("provenance.json", b"[" * 9999),
    ],
)
def test_a_damaged_plan_is_said_and_leaves_nothing(tmp_path: Path, journal: Journal, name: str, data: bytes) -> None:
    a_run().write(journal)
    journal.put_run("run-1", name, data)
    with Store(tmp_path / "index.duckdb") as store, pytest.raises(JournalError, match="plan of run 'run-1' is damaged"):
        store.consolidate(journal, "run-1")
    assert not any(
        rows
        for name, rows in contents(tmp_path / "index.duckdb").items()
        if name not in ("index_version", "mart_nudenet_presets")
    )


def test_a_corrupt_unit_is_named_and_the_rest_stays_loaded(tmp_path: Path, journal: Journal) -> None:
    run, path = a_run(), tmp_path / "index.duckdb"
    run.write(journal)
    key = run.key("detect", 0)
    file = Path(journal.store.path(f"units/detect/{key[:2]}/{key}.parquet"))
    good = file.read_bytes()
    file.write_bytes(good[:-30])
    with Store(path) as store, pytest.raises(JournalError, match=f"corrupt.*(\n.*)*{key}"):
        store.consolidate(journal, "run-1")
    file.write_bytes(good)
    assert filled(path, journal) == filled(tmp_path / "new.duckdb", journal)


def test_a_damaged_run_does_not_keep_the_others_out(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    whole = filled(tmp_path / "whole.duckdb", journal)
    journal.put_run("run-0", "plan.json", b"{")
    path = tmp_path / "index.duckdb"
    folded = Store.rebuild(path, journal)
    assert (folded.runs, len(folded.damaged)) == (1, 1)
    assert folded.damaged[0].startswith("run run-0: ")
    assert contents(path) == whole


def test_a_young_copy_stays_for_whoever_reads_it(tmp_path: Path, journal: Journal) -> None:
    a_run().write(journal)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        copies = [store.publish(tmp_path / "published", keep=1) for _ in range(3)]
    assert published(tmp_path / "published") == copies


def test_the_index_knows_where_units_were_computed(tmp_path: Path, journal: Journal) -> None:
    run, path = a_run(), tmp_path / "index.duckdb"
    run.write(journal)
    key = run.key("generate", 0)
    header = {"runtime": {"host": "gpu-3", "device": "cuda:0 (H100)", "seconds": 12.5}}
    table = journal.read("generate", key)
    discard(journal, "generate", key)
    journal.write("generate", key, table.replace_schema_metadata(None), header)
    filled(path, journal)
    computed = read_result(path, "run-1").provenance["computed"]
    assert "1 unit on cuda:0 (H100) of gpu-3" in computed["generate"]
    assert "unknown" in computed["detect"]
