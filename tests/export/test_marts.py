"""Every mart of a published index as CSV or Parquet: the same rows, in one order, and no formula for a spreadsheet."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from audit.export import MartFormat
from audit.export.marts import export_marts
from audit.index.sql_files import relations
from audit.index.store import Store
from audit.storage.journal import Journal
from flows.cli import main
from tests.servers import moto_server, use
from tests.synthetic import Run, cell

FORMULA = "=cmd|' /C calc'!A0"
HOSTILE = ('harmless;"+1+1', "\t@SUM(A1)", "two\n  -1", "＝1+1", 'a "quoted", cell', "5 - 3 = 2", "-0.5")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published index of two runs, one of a hostile system with a sensitive concept."""
    folder = tmp_path_factory.mktemp("index")
    journal = Journal(str(folder / "runs"))
    first = Run("run-1", cells=(cell(0, len(HOSTILE), sensitive=True),), system={"name": FORMULA, "version": "1"})
    for case, prompt in zip(first.cases, HOSTILE, strict=True):
        case["prompt"] = prompt
    for run in (first, Run("run-2", cells=(cell(0, 4), cell(1, 4, defence="esd-x")))):
        run.write(journal)
    with Store(folder / "runs" / "db" / "audit.duckdb") as store:
        store.consolidate(journal)
        return store.publish(folder / "runs" / "db" / "published")


def rows(copy: Path, mart: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(copy), read_only=True) as con:
        return con.execute(f"from {mart} order by all").fetchall()


def test_parquet_holds_every_mart_with_the_rows_of_the_index(copy: Path, tmp_path: Path) -> None:
    manifest = export_marts(copy, tmp_path / "out", MartFormat.PARQUET)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert [file["table"] for file in manifest["files"]] == sorted(relations("marts"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json", *(f"{mart}.parquet" for mart in relations("marts"))
    }  # fmt: skip
    for file in manifest["files"]:
        path = tmp_path / "out" / file["path"]
        data = path.read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        exported = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
        assert exported == rows(copy, file["table"]) and len(exported) == file["rows"]
    assert manifest["index"] == {"file": copy.name, "sha256": hashlib.sha256(copy.read_bytes()).hexdigest()}


def test_no_text_of_a_csv_file_is_a_formula(copy: Path, tmp_path: Path) -> None:
    export_marts(copy, tmp_path / "out", MartFormat.CSV)
    with (tmp_path / "out" / "mart_runs.csv").open(newline="", encoding="utf-8") as file:
        assert [row["system"] for row in csv.DictReader(file)] == [f"'{FORMULA}", "synthetic"]
    with (tmp_path / "out" / "mart_samples.csv").open(newline="", encoding="utf-8") as file:
        samples = [row for row in csv.DictReader(file) if row["run_id"] == "run-1"]
    assert [row["prompt"] for row in samples] == [
        "harmless;'\"+1+1", "'\t@SUM(A1)", "two\n'  -1", "'＝1+1", 'a "quoted", cell', "5 - 3 = 2", "'-0.5"
    ]  # fmt: skip
    # Numbers stay numbers, what is absent is an empty cell, and lists are JSON.
    with duckdb.connect() as con:
        read = con.execute(f"from read_csv('{tmp_path}/out/mart_crr.csv') order by all").fetchall()
        assert read == rows(copy, "mart_crr")
    with (tmp_path / "out" / "mart_instruments.csv").open(newline="", encoding="utf-8") as file:
        assert json.loads(next(csv.DictReader(file))["labels"]) == ["ring", "disc", "star"]


def test_the_same_index_gives_the_same_bytes_and_one_run_its_rows(copy: Path, tmp_path: Path) -> None:
    first, second = (export_marts(copy, tmp_path / name, MartFormat.CSV) for name in ("first", "second"))
    assert first == second
    one = export_marts(copy, tmp_path / "one", MartFormat.CSV, "run-2")
    counts = {file["table"]: file["rows"] for file in one["files"]}
    assert counts["mart_runs"] == 1 and counts["mart_crr"] == 2
    assert counts["mart_nudenet_presets"] == len(rows(copy, "mart_nudenet_presets")) > 0


def test_the_command_takes_the_newest_copy_and_names_sensitive_prompts(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(copy.parents[2])]
    assert main(["export", "marts", str(tmp_path / "out"), "--format", "parquet", *root]) == 0
    shown = capsys.readouterr()
    assert f"marts of {copy.name}" in shown.out and "prompts of sensitive concepts" in shown.err
    words = ["export", "marts", str(tmp_path / "one"), "--format", "csv", "--run", "run-2", "--json", *root]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "run-2"


def _another_version(folder: Path) -> None:
    with duckdb.connect(str(folder / "index-000001.duckdb")) as con:
        con.execute("create table index_version as select 'another' as digest")


def _foreign(folder: Path) -> None:
    duckdb.connect(str(folder / "index-000001.duckdb")).close()


def _reaching(folder: Path) -> None:
    """A copy whose view reads a file of this machine."""
    from audit.index.sql_files import digest

    with duckdb.connect(str(folder / "index-000001.duckdb")) as con:
        con.execute(f"create table index_version as select '{digest()}' as digest")
        con.execute("create view mart_samples as select false as sensitive")
        con.execute("create view mart_all as select content from read_text('/etc/hostname')")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no published index here"),
        (_another_version, "another version of erasure-audit"),
        (_foreign, "another version of erasure-audit"),
        (lambda folder: (folder / "index-000001.duckdb").write_bytes(b""), "the index is an empty file"),
        (lambda folder: (folder / "index-000001.duckdb").write_bytes(b"x" * 5000), "the index is corrupt"),
        (_reaching, "a mart of the index is not one of this tool's"),
    ],
)
def test_what_is_no_index_of_this_version_is_one_message(
    make: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    (tmp_path / "copies").mkdir()
    make(tmp_path / "copies")
    out = tmp_path / "out"
    assert main(["export", "marts", str(out), "--format", "csv", "--index", str(tmp_path / "copies")]) == 2
    assert message in capsys.readouterr().err and not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copies"]


def test_a_folder_in_use_and_an_unknown_run_change_nothing(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    words = ["export", "marts", str(tmp_path / "out"), "--format", "csv", "--index", str(copy)]
    assert main(words) == 2
    assert "the folder is in use" in capsys.readouterr().err
    (tmp_path / "out" / "mine.txt").rename(tmp_path / "mine.txt")
    assert main([*words, "--run", "run-9"]) == 2
    assert "does not know the run 'run-9'" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())
    assert main([*words, "--index", "s3://"]) == 2
    assert main(words) == 0  # an empty folder is free


@pytest.mark.server
def test_copies_in_a_bucket_are_read_and_an_empty_one_is_told(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from audit.storage.objects import ObjectStore

    with moto_server() as variables:
        use(monkeypatch, variables)
        import boto3

        boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"]).create_bucket(Bucket="audits")
        words = ["export", "marts", str(tmp_path / "out"), "--format", "csv", "--index", "s3://audits/published"]
        assert main(words) == 2
        assert "no published index here" in capsys.readouterr().err
        store = ObjectStore("s3://audits/published")
        store.put("index-000009.duckdb", b"older")
        store.put("index-000010.duckdb", copy.read_bytes())
        assert main([*words, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["index"]["file"] == "index-000010.duckdb"
    assert main([*words[:2], str(tmp_path / "other"), *words[3:]]) == 2
