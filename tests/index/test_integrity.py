"""What was folded is what lies in the journal: every change of a run's files is noticed and named."""

from __future__ import annotations

import datetime as dt
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.index.folded_files import on_record
from audit.index.integrity import accept_changes, changes, require_intact, withdraw_missing
from audit.index.store import Store
from audit.labels.export import record_name
from audit.storage.journal import Journal
from audit.storage.run_records import RecordChanged, append, read_records
from tests.synthetic import Run, cell, control, discard, instrument

LATENT = {"scenario": "latent-whitebox", "kind": "latent-whitebox"}


def a_run(run_id: str = "run-1") -> Run:
    cells = [cell(0, 10), cell(1, 6, **LATENT), control(2, 3, "black")]
    return Run(run_id, cells=cells, instruments=[instrument(), instrument("second", 12)])


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(str(tmp_path / "journal"))
    run = a_run()
    run.write(journal)
    run.rewrite(journal, "generate", 0, {0: {"status": "error", "error": "out of memory"}})
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
    return journal


def files(journal: Journal) -> list[Path]:
    return sorted(path for path in Path(journal.store.base).rglob("*") if path.is_file() and ".tmp" not in path.parts)


def test_a_folded_run_is_on_record_and_intact(journal: Journal) -> None:
    record = on_record(journal, "run-1")
    assert record.sha256 and len(record.units) == len(list(Path(journal.store.base).rglob("units/**/*.parquet")))
    assert set(record.files) >= {"plan.json", "cases.parquet", "units.parquet", "provenance.json"}
    assert changes(journal, "run-1") == []
    require_intact(journal, "run-1")


def test_a_score_that_was_edited_with_the_old_time_of_the_file_is_noticed(journal: Journal, tmp_path: Path) -> None:
    import os

    run = a_run()
    path = next(Path(journal.store.base).rglob(f"{run.key('detect', 0)}.parquet"))
    before = path.stat()
    run.rewrite(journal, "detect", 0, {0: {"scores": [{"label": "ring", "score": 0.01}]}})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RecordChanged, match=f"changed: .*{run.key('detect', 0)}"):
        require_intact(journal, "run-1")
    with Store(tmp_path / "new.duckdb") as store, pytest.raises(RecordChanged, match=run.key("detect", 0)):
        store.consolidate(journal, "run-1")
    assert accept_changes(journal, "run-1", dt.datetime.now(dt.UTC), "a test edits it", "tester")
    require_intact(journal, "run-1")


def test_a_missing_unit_is_an_error_until_a_resume_takes_it_off_the_record(journal: Journal, tmp_path: Path) -> None:
    run = a_run()
    discard(journal, "detect", run.key("detect", 1))
    with (
        Store(tmp_path / "index.duckdb") as store,
        pytest.raises(RecordChanged, match=f"missing: .*{run.key('detect', 1)}"),
    ):
        store.consolidate(journal, "run-1")
    with pytest.raises(RecordChanged, match="missing"):
        require_intact(journal, "run-1")
    assert [unit.key for unit in withdraw_missing(journal, "run-1", dt.datetime.now(dt.UTC), "tester")] == [
        run.key("detect", 1)
    ]
    require_intact(journal, "run-1")
    assert on_record(journal, "run-1").withdrawn == 1
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, "run-1")


def test_what_labelling_and_disclosure_leave_in_a_run_is_no_fault(journal: Journal) -> None:
    for name in (record_name("0" * 64), "shown-20261128T120000000000Z.json"):
        journal.put_run("run-1", name, b"{}")
    require_intact(journal, "run-1")
    journal.put_run("run-1", "label-task.txt", b"{}")
    with pytest.raises(RecordChanged, match=r"added: .*label-task\.txt"):
        require_intact(journal, "run-1")


def test_a_failed_unit_whose_errors_were_edited_away_is_not_folded(journal: Journal, tmp_path: Path) -> None:
    run = a_run()
    key = run.key("generate", 0)
    (failed,) = Path(journal.store.base).rglob(f"{key}.failed.parquet")
    discard(journal, "generate", key)
    run.write_units(journal, ["generate"])
    (complete,) = Path(journal.store.base).rglob(f"{key}.parquet")
    complete.rename(failed)
    with Store(tmp_path / "new.duckdb") as store, pytest.raises(RecordChanged, match="nothing in it failed"):
        store.consolidate(journal, "run-1")


def test_a_failed_unit_that_is_tried_again_is_no_fault(journal: Journal, tmp_path: Path) -> None:
    a_run().rewrite(journal, "generate", 0, {0: {"status": "error", "error": "again"}})
    (change,) = changes(journal, "run-1")
    assert change.what == "retried" and change.harmless
    a_run().write_units(journal, ["generate"])
    assert changes(journal, "run-1") == []
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal, "run-1")
    require_intact(journal, "run-1")


def test_two_resumes_at_once_withdraw_a_missing_unit_once(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    key, now, put_new, others = a_run().key("detect", 1), dt.datetime.now(dt.UTC), journal.store.put_new, []
    discard(journal, "detect", key)

    def slow(name: str, data: bytes) -> bool:
        monkeypatch.setattr(journal.store, "put_new", put_new)
        others.extend(withdraw_missing(journal, "run-1", now, "the faster one"))
        return put_new(name, data)

    monkeypatch.setattr(journal.store, "put_new", slow)
    assert withdraw_missing(journal, "run-1", now, "the slower one") == []
    assert [unit.key for unit in others] == [key]
    assert on_record(journal, "run-1").withdrawn == 1
    withdrawals = [r for r in read_records(journal, "run-1", "folded") if "withdrawn" in r.fields]
    assert [record.fields["by"] for record in withdrawals] == ["the faster one"]


def write_failed(journal: Journal, scores: float, seconds: float, key: str | None = None) -> Path:
    """Write a detect unit that failed in its first row, and return its file."""
    run = a_run()
    rows = run.rows(run.key("detect", 0))
    rows[0] |= {"status": "error", "error": "out of memory", "scores": None}
    rows[1] |= {"scores": [{"label": "ring", "score": scores}]}
    header = {"runtime": {"host": "h", "device": "cpu", "seconds": seconds}}
    discard(journal, "detect", run.key("detect", 0))
    journal.write("detect", key or run.key("detect", 0), run.table("detect", rows), header)
    (path,) = Path(journal.store.base).rglob(f"{key or run.key('detect', 0)}.failed.parquet")
    return path


def tried_again(journal: Journal, path: Path) -> None:
    write_failed(journal, 0.6, 4.000000002)


def edited(journal: Journal, path: Path) -> None:
    write_failed(journal, 0.01, 3.000000001)


def swapped(journal: Journal, path: Path) -> None:
    write_failed(journal, 0.6, 5.0, "f" * 64).replace(path)


def cut(journal: Journal, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("change", [tried_again, edited, swapped, cut])
def test_a_failed_unit_whose_rows_were_edited_is_no_retry(
    change: Callable[[Journal, Path], None], tmp_path: Path
) -> None:
    journal = Journal(str(tmp_path / "journal"))
    a_run().write(journal)
    path = write_failed(journal, 0.6, 3.000000001)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        change(journal, path)
        if change is tried_again:
            assert [found.what for found in changes(journal, "run-1")] == ["retried"]
            store.consolidate(journal)
            assert changes(journal, "run-1") == []
            return
        with pytest.raises(RecordChanged, match=f"changed: .*{path.name}"):
            require_intact(journal, "run-1")
        if change is edited:
            with pytest.raises(RecordChanged, match=f"changed: .*{path.name}"):
                store.consolidate(journal, "run-1")
            assert accept_changes(journal, "run-1", dt.datetime.now(dt.UTC), "a test edits it", "tester")
            write_failed(journal, 0.02, 3.000000001)
            assert [found.what for found in changes(journal, "run-1")] == ["changed"]


def mutations(journal: Journal, number: int, seed: int) -> list[tuple[str, Callable[[], str | None]]]:
    """Random single changes of a journal: each does it and returns a part of the name that must be told."""
    chance = random.Random(seed)
    # The last decision is missed by the index, which holds its digest: tests/index/test_decisions.py.
    targets = [path for path in files(journal) if path.parent.name != "decisions"]

    def one() -> tuple[str, Callable[[], str | None]]:
        path = chance.choice(targets)
        what = chance.choice(("bit", "truncate", "remove", "swap", "rename", "add"))
        other = chance.choice([p for p in targets if p != path and p.suffix == path.suffix])
        position, bit = chance.random(), chance.randrange(8)

        def do() -> str | None:
            data = path.read_bytes()
            if what == "bit":
                changed = bytearray(data)
                changed[int(position * len(data))] ^= 1 << bit
                path.write_bytes(bytes(changed))
            elif what == "truncate":
                path.write_bytes(data[: int(position * len(data))])
            elif what == "remove":
                path.unlink()
            elif what == "swap":
                path.write_bytes(other.read_bytes())
                return path.name if other.read_bytes() != data else None
            elif what == "rename":
                path.rename(path.with_name(f"x{path.name}"))
            else:
                shutil.copy(path, path.with_name(f"extra-{path.name}"))
                return f"extra-{path.name}"
            return path.name

        return f"{what} {path.name}", do

    return [one() for _ in range(number)]


def check_mutations(journal: Journal, number: int, seed: int) -> None:
    fields = {"folded_sha256": on_record(journal, "run-1").sha256}
    append(journal, "run-1", "decisions", dt.datetime.now(dt.UTC), lambda earlier: fields)
    base = Path(journal.store.base)
    kept = base.with_name("kept")
    shutil.copytree(base, kept)
    missed = []
    for name, do in mutations(journal, number, seed):
        expected = do()
        try:
            told = "\n".join(change.url for change in changes(journal, "run-1"))
        except RecordChanged as error:
            told = str(error)
        if expected is not None and expected not in told:
            missed.append(name)
        shutil.rmtree(base)
        shutil.copytree(kept, base)
    assert not missed


def test_random_changes_of_a_journal_are_noticed_and_named(journal: Journal) -> None:
    check_mutations(journal, 60, seed=1)


@pytest.mark.slow
def test_a_thousand_random_changes_of_a_journal_are_noticed_and_named(journal: Journal) -> None:
    check_mutations(journal, 1000, seed=2)
