"""The journal on disk and on a loopback S3 server: atomic, complete-or-failed, and errors that name the next step."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from audit.errors import JournalError
from audit.storage.journal import SCHEMAS, Journal, StorageUnavailable


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def detect_table(status: str = "ok", rows: int = 3) -> pa.Table:
    score = {"label": "ring", "score": 0.5, "x": None, "y": None, "w": None, "h": None}
    records = [
        {"image_id": i, "status": status, "error": None, "scores": [score, score], "instrument_id": 7}
        for i in range(rows)
    ]
    return pa.Table.from_pylist(records, SCHEMAS["detect"])


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_endpoint


@pytest.fixture(params=["file", "s3"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "file":
        return Journal(f"file://{tmp_path}/journal")
    endpoint = request.getfixturevalue("aws")
    bucket = f"audit-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return Journal(f"s3://{bucket}/some/prefix")


def test_what_is_written_is_read(journal: Journal) -> None:
    key, table = key_of("unit"), detect_table()
    assert journal.keys("detect") == set()
    journal.write("detect", key, table, {"identity": {"a": 1}, "runtime": {"seconds": 2.5}}, blob=b"tensors")
    assert journal.keys("detect") == {key}
    assert set(journal.listing("detect").failed) == set()
    assert journal.read("detect", key).equals(table)
    assert journal.read("detect", key, ["image_id"]).column_names == ["image_id"]
    assert journal.blob("detect", key) == b"tensors"
    assert journal.header("detect", key) == {
        "kind": "detect",
        "key": key,
        "identity": {"a": 1},
        "runtime": {"seconds": 2.5},
        "blob_sha256": hashlib.sha256(b"tensors").hexdigest(),
    }


def blobs(journal: Journal, key: str) -> list[str]:
    return [name for name, _ in journal.store.entries(f"units/detect/{key[:2]}") if name.endswith(".safetensors")]


@pytest.mark.parametrize("blind", [False, True], ids=["asks-first", "in-the-same-moment"])
def test_the_first_complete_unit_wins(journal: Journal, monkeypatch: pytest.MonkeyPatch, blind: bool) -> None:
    """The second writer's rows and tensors are dropped, also when neither saw the other while it looked."""
    key = key_of("unit")
    if blind:
        monkeypatch.setattr(journal.store, "size", lambda _: None)
    assert journal.write("detect", key, detect_table(rows=3), {"runtime": {"host": "first"}}, blob=b"first")
    assert not journal.write("detect", key, detect_table(rows=2), {"runtime": {"host": "second"}}, blob=b"second")
    assert not journal.write("detect", key, detect_table(rows=2), {}, blob=b"first")
    assert journal.read("detect", key).num_rows == 3
    assert journal.header("detect", key)["runtime"] == {"host": "first"}
    assert journal.blob("detect", key) == b"first"
    assert len(blobs(journal, key)) == 1


def test_a_server_without_conditional_writes_still_stores(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = journal.store.fs.pipe_file

    def lacking(path: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        plain(path, data)

    monkeypatch.setattr(journal.store.fs, "pipe_file", lacking)
    if journal.store.local:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no hard links here")))
    key = key_of("unit")
    assert journal.write("detect", key, detect_table(rows=3), {})
    assert not journal.write("detect", key, detect_table(rows=2), {})
    assert journal.read("detect", key).num_rows == 3


def test_of_many_writers_at_once_one_wins_wholly(tmp_path: Path) -> None:
    """Rows and tensors come from the same writer, whoever it is. (moto's own conditional PUT is not atomic.)"""
    journal, key, writers = Journal(str(tmp_path)), key_of("unit"), 8
    with ThreadPoolExecutor(writers) as pool:
        won = list(
            pool.map(lambda n: journal.write("detect", key, detect_table(rows=n), {}, blob=b"%d" % n), range(1, 9))
        )
    assert won.count(True) == 1
    assert journal.blob("detect", key) == b"%d" % journal.read("detect", key).num_rows
    assert won.index(True) + 1 == journal.read("detect", key).num_rows
    assert len(blobs(journal, key)) == 1


def test_a_torn_file_is_replaced(journal: Journal) -> None:
    key = key_of("unit")
    journal.store.put(f"units/detect/{key[:2]}/{key}.parquet", b"PAR1")
    assert journal.write("detect", key, detect_table(rows=3), {})
    assert journal.read("detect", key).num_rows == 3


def test_other_tensors_under_the_name_of_a_unit_are_refused(journal: Journal) -> None:
    key = key_of("unit")
    journal.write("detect", key, detect_table(), {}, blob=b"tensors")
    (name,) = blobs(journal, key)
    journal.store.put(f"units/detect/{key[:2]}/{name}", b"others")
    with pytest.raises(JournalError, match="corrupt"):
        journal.blob("detect", key)


def test_an_error_row_makes_the_unit_failed_until_a_complete_file_exists(journal: Journal) -> None:
    key = key_of("unit")
    journal.write("detect", key, detect_table("error"), {})
    assert (journal.keys("detect"), set(journal.listing("detect").failed)) == (set(), {key})
    assert journal.read("detect", key).column("status").to_pylist() == ["error"] * 3
    journal.write("detect", key, detect_table("degenerate"), {})
    assert (journal.keys("detect"), set(journal.listing("detect").failed)) == ({key}, set())
    assert journal.read("detect", key).column("status").to_pylist() == ["degenerate"] * 3


def test_a_late_failed_file_does_not_hide_a_complete_one(journal: Journal) -> None:
    key = key_of("unit")
    journal.write("detect", key, detect_table("ok"), {})
    journal.write("detect", key, detect_table("error"), {})
    assert (journal.keys("detect"), set(journal.listing("detect").failed)) == ({key}, set())
    assert journal.read("detect", key).column("status").to_pylist() == ["ok"] * 3


def test_scan_reads_many_units_and_says_which(journal: Journal) -> None:
    complete = {key_of(f"c{i}") for i in range(40)}
    failed = {key_of(f"f{i}") for i in range(2)}
    for key in complete:
        journal.write("detect", key, detect_table(), {})
    for key in failed:
        journal.write("detect", key, detect_table("error"), {})
    rows: dict[str, int] = {}
    for file, table in journal.scan("detect", complete | failed, ["image_id", "scores"]):
        assert table.column_names == ["image_id", "scores"]
        assert file.complete == (file.key in complete) and file == journal.file("detect", file.key)
        rows[file.key] = rows.get(file.key, 0) + table.num_rows
    assert rows == dict.fromkeys(complete | failed, 3)
    assert list(journal.scan("detect", [], ["image_id"])) == []


def test_run_files(journal: Journal) -> None:
    assert journal.runs() == []
    journal.put_run("2026-11-22-a", "spec.yaml", b"name: x")
    assert journal.runs() == []  # a run exists from its plan on
    journal.put_run("2026-11-22-a", "plan.json", b"{}")
    assert journal.runs() == ["2026-11-22-a"]
    assert journal.get_run("2026-11-22-a", "spec.yaml") == b"name: x"
    with pytest.raises(JournalError, match=r"has no cases\.parquet"):
        journal.get_run("2026-11-22-a", "cases.parquet")
    with pytest.raises(JournalError, match="is not a run id"):
        journal.get_run("../../etc", "passwd")


def test_probe_leaves_nothing_behind(journal: Journal) -> None:
    journal.probe()
    assert [name for name, _ in journal.store.entries("") if name != ".tmp"] == []


def test_absent_units_are_named(journal: Journal) -> None:
    key = key_of("unit")
    with pytest.raises(JournalError, match=f"lacks a file.*(\n.*)*{key}.*(\n.*)*erasure-audit resume"):
        journal.read("detect", key)
    with pytest.raises(JournalError, match="lacks a file"):
        journal.blob("detect", key)


def test_images_are_stored_as_datasets_reads_them(tmp_path: Path) -> None:
    journal, key = Journal(str(tmp_path)), key_of("unit")
    row = {"image_id": 1, "status": "ok", "image": {"bytes": b"\x89PNG", "path": None}, "unet_calls": 25}
    journal.write("generate", key, pa.Table.from_pylist([row], SCHEMAS["generate"]), {})
    schema = pq.read_schema(journal.store.path(f"units/generate/{key[:2]}/{key}.parquet"))
    assert b'"image": {"_type": "Image"}' in schema.metadata[b"huggingface"]
    assert journal.read("generate", key).column("image").to_pylist() == [row["image"]]


def test_a_file_from_before_a_column_was_added_reads_as_null_there(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, row = key_of("unit"), {"image_id": 1, "status": "ok", "unet_calls": 25, "denoised_by": "a"}
    table = pa.Table.from_pylist([row], SCHEMAS["generate"])
    with monkeypatch.context() as before:
        before.setitem(SCHEMAS, "generate", SCHEMAS["generate"].remove(len(table.schema) - 1))  # type: ignore[arg-type]
        journal.write("generate", key, table, {})
    read = journal.read("generate", key, ["image_id", "unet_calls", "denoised_by"])
    assert read.to_pylist() == [{"image_id": 1, "unet_calls": 25, "denoised_by": None}]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_corrupt_file_is_named_with_the_command_that_mends_it(tmp_path: Path, damage: str) -> None:
    journal, keys = Journal(str(tmp_path)), [key_of(f"{i}") for i in range(3)]
    for key in keys:
        journal.write("detect", key, detect_table(rows=200), {})
    path = Path(journal.store.path(f"units/detect/{keys[1][:2]}/{keys[1]}.parquet"))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[300] ^= 0xFF  # inside the first data page
    path.write_bytes({"truncated": data[:-20], "flipped": data, "text": b"not parquet at all"}[damage])
    with pytest.raises(JournalError, match=f"corrupt.*(\n.*)*{keys[1]}.parquet(\n.*)*erasure-audit resume"):
        journal.read("detect", keys[1])
    with pytest.raises(JournalError, match=f"corrupt.*(\n.*)*{keys[1]}.parquet(\n.*)*erasure-audit resume"):
        list(journal.scan("detect", keys, ["image_id", "status"]))


def test_a_unit_with_large_pictures_is_read_in_parts(journal: Journal) -> None:
    key, picture = key_of("unit"), os.urandom(3 << 20)
    rows = [{"image_id": n, "status": "ok", "image": {"bytes": picture, "path": None}} for n in range(2)]
    journal.write("generate", key, pa.Table.from_pylist(rows, SCHEMAS["generate"]), {"identity": 1})
    assert journal.read("generate", key, ["image_id", "status"]).column("image_id").to_pylist() == [0, 1]
    assert journal.read("generate", key, ["image"]).column("image").to_pylist()[1]["bytes"] == picture
    assert journal.header("generate", key)["identity"] == 1


def test_a_failing_disk_is_not_taken_for_a_corrupt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal, key = Journal(str(tmp_path)), key_of("unit")
    journal.write("detect", key, detect_table(), {})
    monkeypatch.setattr(pq.ParquetFile, "read", failing)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        journal.read("detect", key)


def test_an_empty_file_of_a_crashed_store_is_no_unit(tmp_path: Path) -> None:
    journal, key = Journal(str(tmp_path)), key_of("unit")
    journal.write("detect", key, detect_table(), {})
    Path(journal.store.path(f"units/detect/{key[:2]}/{key}.parquet")).write_bytes(b"")
    assert journal.keys("detect") == set()


def test_a_killed_writer_leaves_whole_files_only(tmp_path: Path) -> None:
    """A process that writes units until SIGKILL: every listed unit reads back."""
    code = (
        "import sys, hashlib; from tests.storage.test_journal import *\n"
        "j = Journal(sys.argv[1]); print('ready', flush=True)\n"
        "for i in range(10**6): j.write('detect', key_of(str(i)), detect_table(rows=500), {}, blob=b'x' * 10**5)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    journal = Journal(str(tmp_path))
    while len(journal.keys("detect")) < 5 and process.poll() is None:
        pass
    process.kill()
    process.communicate()
    keys = journal.keys("detect")
    assert len(keys) >= 5
    for key in keys:
        assert journal.read("detect", key).num_rows == 500
        assert len(journal.blob("detect", key)) == 10**5


def test_a_full_disk_is_said_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal = Journal(str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JournalError, match="the disk is full"):
        journal.write("detect", key_of("unit"), detect_table(), {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalError, match="is a file, not a folder"):
        Journal(str(tmp_path / "file" / "journal")).probe()


def test_an_unwritable_root_is_said() -> None:
    with pytest.raises(JournalError, match=r"read-only|denied|does not exist"):
        Journal("/sys/erasure-audit").probe()


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://", "names no bucket"),
        ("s3://AKIA:secret@bucket/x", "carries credentials"),
        ("nosuch://bucket/x", "protocol is not usable"),
    ],
)
def test_malformed_roots(root: str, message: str) -> None:
    with pytest.raises(JournalError, match=message) as caught:
        Journal(root)
    assert "secret" not in str(caught.value)


def test_a_missing_bucket_is_said(aws: str) -> None:
    with pytest.raises(JournalError, match="bucket does not exist"):
        Journal("s3://no-such-bucket-here/x").probe()


def test_an_unreachable_s3_is_said_and_may_be_retried(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailable, match=r"does not answer(.*\n)*.*AWS_ENDPOINT_URL"):
        Journal("s3://bucket/x").probe()


def test_missing_credentials_are_said(aws: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(JournalError, match=r"no usable credentials(.*\n)*.*AWS_ACCESS_KEY_ID"):
        Journal("s3://bucket/x").probe()


def test_the_journal_needs_no_torch() -> None:
    code = "import sys, audit.storage.journal; raise SystemExit('torch' in sys.modules or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
