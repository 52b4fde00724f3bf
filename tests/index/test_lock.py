"""Several processes at one index wait their turn; file systems without locks or links get one clear error or a way round."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.compute.training_folders import trained_elsewhere, training_session
from audit.errors import EnvironmentProblem, StoreError
from audit.files import NoLocks, try_lock
from audit.index import lock
from audit.index.lock import locked
from audit.index.store import Store
from audit.locations import database_path, require_writable
from audit.storage import local_files
from audit.storage.journal import Journal
from audit.storage.local_files import link_new
from audit.storage.objects import ObjectStore
from flows.cli import main
from tests import synthetic
from tests.synthetic import Run

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]
NO_LINKS = [errno.EINVAL, errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS]


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Run("run-1").write(Journal(str(tmp_path / "runs")))
    return tmp_path / "runs"


@pytest.mark.slow
def test_processes_that_rebuild_one_index_at_once_all_succeed(root: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "db", "rebuild", "--root", str(root)]
    folder = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    running = [
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * 4, ended
    assert len(list((root / "db" / "published").glob("index-*.duckdb"))) == 4


def test_a_waiting_process_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "_NOTICE_SECONDS", 0.1)
    entered = threading.Event()

    def hold() -> None:
        with locked(tmp_path / "index.duckdb"):
            entered.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    with caplog.at_level(logging.WARNING), Store(tmp_path / "index.duckdb"):
        pass
    holder.join()
    assert [r.getMessage() for r in caplog.records] == [
        f"the index is busy in process {os.getpid()}; waiting for it, up to 60 s: {tmp_path}/index.duckdb"
    ]


def test_who_waited_long_enough_is_told_whom_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(lock.WAIT_VARIABLE, "0.2")
    (root / "db").mkdir()
    with locked(root / "db" / "audit.duckdb"):
        assert main(["db", "consolidate", "--root", str(root)]) == 2
    said = capsys.readouterr().err
    assert f"the index is open in process {os.getpid()} still, after 0.2 s of waiting" in said
    assert "ERASURE_AUDIT_INDEX_WAIT sets how many seconds to wait" in said


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e9"])
def test_a_waiting_time_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.WAIT_VARIABLE, value)
    with pytest.raises(EnvironmentProblem, match=f"ERASURE_AUDIT_INDEX_WAIT is '{value}', not a number of seconds"):
        lock.waiting_seconds()


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_one_clear_error(
    number: int, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert main(["db", "rebuild", "--root", str(root)]) == 2
    said = capsys.readouterr().err
    assert f"the index needs file locks, and the file system of its folder has none ({os.strerror(number)})" in said
    assert "keep the index on a local disk: --database /local/folder/audit.duckdb" in said
    with pytest.raises(EnvironmentProblem, match="the DuckDB index cannot be written: it needs file locks") as raised:
        require_writable(root / "db" / "audit.duckdb", root / "reports")
    assert raised.value.next_step == "name another place with --database"


def test_a_lock_that_duckdb_cannot_get_is_the_same_error(tmp_path: Path) -> None:
    import duckdb

    from audit.index.store import explained

    with pytest.raises(StoreError, match=r"has none \(No locks available\)"), explained(tmp_path):
        raise duckdb.IOException('IO Error: Could not set lock on file "/x": No locks available')
    with pytest.raises(StoreError, match="open in process 7"), explained(tmp_path):
        raise duckdb.IOException('Could not set lock on file "/x": Conflicting lock is held in python (PID 7)')


def test_a_training_without_locks_says_why_it_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Listener:
        def note(self, text: str) -> None:
            said.append(text)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    unit = synthetic.unit("erase", parameters={"iterations": 4})
    with training_session(unit, Listener()) as session:  # type: ignore[arg-type]
        assert session.folder is None
        assert not trained_elsewhere(unit)
    (text,) = said
    assert text.endswith("is on a file system without locks: an interrupted training will begin anew")


def test_a_lock_held_elsewhere_is_no_trouble_of_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"")
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    assert try_lock(first) and not try_lock(second)
    os.close(first)
    assert try_lock(second)
    os.close(second)
    with pytest.raises((NoLocks, OSError)):
        try_lock(second)


@pytest.mark.parametrize("number", NO_LINKS)
def test_without_hard_links_exactly_one_of_many_writers_wins(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    store = ObjectStore(str(tmp_path))
    won: list[int] = []

    def write(writer: int) -> None:
        if store.put_new("units/x", str(writer).encode()):
            won.append(writer)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1 and store.get("units/x") == str(won[0]).encode()
    assert [name for name, _ in store.entries("units")] == ["x"]
    Run("run-1").write(Journal(str(tmp_path)))
    with Store(tmp_path / "db" / "index.duckdb") as index:
        index.consolidate(Journal(str(tmp_path)))
        assert [index.publish(tmp_path / "published").name for _ in range(2)] == [
            "index-000001.duckdb", "index-000002.duckdb",
        ]  # fmt: skip


def test_the_claim_of_a_killed_writer_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(local_files, "_CLAIM_SECONDS", 0.1)
    (tmp_path / ".unit.claim").write_bytes(b"")
    (tmp_path / "new").write_bytes(b"new")
    assert link_new(tmp_path / "new", tmp_path / "unit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unit"]


def test_other_troubles_of_a_link_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    from audit.errors import JournalError

    with pytest.raises(JournalError, match="the disk is full"):
        ObjectStore(str(tmp_path)).put_new("x", b"y")


NAMES = ["a?b", "a\\b", "a::b", "a#b", "a%41b", "a\nb", "a*b", "a[b]", "a'b", 'a"b', "a;b", "a b", "ä", "s3:b", "?"]


@pytest.mark.parametrize("name", NAMES)
def test_a_storage_root_of_any_local_name_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / name
    Run("run-1").write(Journal(str(root)))
    assert (root / "runs" / "run-1" / "plan.json").is_file()
    require_writable(database_path(str(root)), root / "reports")
    assert main(["db", "rebuild", "--root", str(root), "--json"]) == 0
    assert main(["db", "runs", "--root", f"file://{root}"]) == 0
    assert main(["db", "sql", "select count(*) as n from cases", "--root", str(root)]) == 0
    assert "run-1" in capsys.readouterr().out


def test_an_index_whose_name_duckdb_cannot_open_is_refused_before_any_work(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("what?", "back\\slash"):
        index = tmp_path / name / "audit.duckdb"
        with pytest.raises(EnvironmentProblem, match="DuckDB cannot open a path with the character"):
            require_writable(index, tmp_path / "reports")
        assert main(["db", "rebuild", "--root", str(root), "--database", str(index)]) == 2
        assert "DuckDB cannot open a path with the character" in capsys.readouterr().err


@pytest.mark.parametrize(
    "root",
    ["ftp://host/x", "reference://x", "hdfs://x/y", "zip://a.zip", "data:x://y", "http://host/x", "https://host/x",
     "memory://x", "github://a:b@c", "file::s3://x/y", "zip://a::s3://b/c"],
)  # fmt: skip
def test_a_root_on_another_protocol_is_refused_with_those_that_are_meant(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "runs", "--root", root]) == 2
    said = capsys.readouterr().err
    assert "s3://bucket/prefix" in said or "carries credentials" in said
    assert (said.count("error: ") == 1 and "is not supported" in said) or "credentials" in said


@pytest.mark.parametrize("name", ["a?b", "a#b", "a\\b", "a::b", "a*b", "a\nb"])
def test_a_bucket_prefix_that_servers_rewrite_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "runs", "--root", f"s3://bucket/{name}"]) == 2
    said = capsys.readouterr().err
    assert "the storage root cannot be used: " in said or "chained with '::'" in said
