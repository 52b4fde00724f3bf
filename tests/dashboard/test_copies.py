"""Which copy is shown, and one clear message where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import duckdb
import pytest

from audit.dashboard.copies import Reader
from audit.errors import AuditError, JournalError, StoreError
from audit.index.copies import Copies, open_copy
from audit.index.store import Store
from tests.servers import environment, free_port, moto_server, use


def test_the_newest_of_a_folder_or_the_file_that_is_named(published: Path, tmp_path: Path) -> None:
    for number in (1, 9, 10):
        (tmp_path / f"index-{number:06d}.duckdb").touch()
    (tmp_path / "index-000011.duckdb.tmp").touch()
    assert Copies(str(tmp_path)).newest().name == "index-000010.duckdb"
    assert Copies(str(published)).newest() == published


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no index here"), (b"", "the index is an empty file"), (b"no index" * 1000, "the index is corrupt"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_index(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "index-000001.duckdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=message) as refused:
        open_copy(path)
    assert refused.value.next_step


def test_an_index_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "index-000001.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("create table index_version as select 'old' as digest")
    other = tmp_path / "other.duckdb"
    duckdb.connect(str(other)).close()
    for file in (path, other):
        with pytest.raises(StoreError, match="filled by another version of erasure-audit"):
            open_copy(file)


def test_an_index_that_is_being_written(published: Path, tmp_path: Path) -> None:
    whole = published.read_bytes()
    path = tmp_path / "index-000001.duckdb"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="corrupt"):
        con = open_copy(path)
        con.execute("select count(*) from outcomes where score > 0").fetchall()


def test_an_index_that_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "audit.duckdb"
    Store(path).close()
    script = f"import duckdb, sys; con = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match="the index is open in process"):
            open_copy(path)
        writer.communicate(b"")
    open_copy(path).close()


def test_a_folder_without_a_copy(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError, match="no published index here"):
            Reader(Copies(str(place)))


def test_a_copy_reaches_for_nothing(published: Path, tmp_path: Path) -> None:
    con = open_copy(published)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for statement in (
        f"select * from '{tmp_path}/secret.csv'",
        f"copy (select 1) to '{tmp_path}/out.csv'",
        f"attach '{tmp_path}/other.duckdb'",
        "set enable_external_access = true",
        "delete from runs",
        "install httpfs",
    ):
        with pytest.raises(duckdb.Error):
            con.execute(statement)
    con.close()


@pytest.mark.server
def test_the_newest_copy_in_a_bucket_comes_once_and_an_unreachable_bucket_is_said_to_be(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with moto_server() as variables:
        use(monkeypatch, variables)
        client = boto3.client("s3")
        client.create_bucket(Bucket="dashboards")
        copies = Copies("s3://dashboards/published")
        with pytest.raises(StoreError, match="no published index here"):
            copies.newest()
        client.put_object(Bucket="dashboards", Key="published/index-000002.duckdb", Body=b"old")
        assert copies.newest().read_bytes() == b"old"
        client.put_object(Bucket="dashboards", Key="published/index-000010.duckdb", Body=published.read_bytes())
        reader = Reader(copies)
        assert [p.name for p in reader.path.parent.iterdir()] == ["index-000010.duckdb"]
        with reader.connection() as (con, name, notice):
            assert (name, notice) == ("index-000010.duckdb", "") and con.execute("select count(*) from runs").fetchall()
        inode = reader.path.stat().st_ino
        assert copies.newest().stat().st_ino == inode
    monkeypatch.setattr("audit.dashboard.copies._LOOK_SECONDS", 0.0)
    with reader.connection() as (con, name, notice):
        assert name == "index-000010.duckdb" and "No newer copy" in notice and con.execute("select 1").fetchall()
    reader.close()


def test_an_address_that_cannot_be_one_or_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, environment(f"http://127.0.0.1:{free_port()}", "k", "s"))
    with pytest.raises(AuditError) as refused:
        Copies("s3://dashboards/published").newest()
    assert "127.0.0.1" in str(refused.value) or "s3://dashboards" in str(refused.value)
    with pytest.raises(JournalError):
        Copies("s3://")
