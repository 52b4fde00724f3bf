"""A run as a folder that Hugging Face `datasets` loads: its features, its card, and what stays out of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.bundles import PHRASE, PROMPT, Audit
from tests.synthetic import Run, cell, control

CELLS = (cell(0, 12), control(1, 4, "backbone", scenario="text"), cell(2, 4, concept="disc", subject="disc"))
HOSTILE = "evil](javascript:alert(1))<script>: # x\n- y"


class Hostile(Audit):
    """A run whose name is markup, and no concept of which is sensitive."""

    def plan(self) -> dict[str, Any]:
        return {**super().plan(), "name": HOSTILE}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    journal = Journal(str(tmp_path_factory.mktemp("plain") / "runs"))
    Hostile(cells=CELLS, hits=3, spec={"name": "x", "concepts": [{"name": "ring", "phrase": "ring"}]}).write(journal)
    return journal


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """A run of a sensitive concept and a harmless one; both drew the very same picture once."""
    journal = Journal(str(tmp_path_factory.mktemp("mixed") / "runs"))
    cells = (cell(0, 8, sensitive=True), cell(1, 8, concept="disc", subject="disc"))
    run = Audit(cells=cells, hits=2)
    run.write(journal)
    first = run.rows(run.key("generate", 0))[0]
    run.rewrite(journal, "generate", 1, {0: {"image": first["image"], "pixel_sha256": first["pixel_sha256"]}})
    return journal


def export(journal: Journal, folder: Path, *words: str) -> int:
    return main(["export", "dataset", "run-1", str(folder), *words, "--root", journal.root])


def front(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return document


def rows(folder: Path, table: str = "cases") -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(f"data/{table}-*"))]).to_pylist()


def features(folder: Path, table: str) -> dict[str, Any]:
    schema = pq.read_schema(next(folder.glob(f"data/{table}-*")))
    document = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(document) == schema.names
    return dict(document)


def test_without_pictures_it_is_tables_and_a_card(plain: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(plain, out) == 0
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {
        "README.md", "manifest.json",
        "data/cases-00000.parquet", "data/outcomes-00000.parquet", "data/rates-00000.parquet",
    }  # fmt: skip
    configs = front(out)["configs"]
    assert [config["config_name"] for config in configs] == ["cases", "outcomes", "rates"] and configs[0]["default"]
    for config in configs:
        (files,) = config["data_files"]
        assert [*out.glob(files["path"])] and files["split"] == "test"
        assert {f["_type"] for f in features(out, config["config_name"]).values()} == {"Value"}
    cases = rows(out)
    assert [(row["cell_id"], row["case_no"]) for row in cases] == [
        (c, n) for c, p in ((0, 12), (1, 4), (2, 4)) for n in range(p)
    ]
    assert [row["outcome"] for row in cases].count("hit") == 3 + 4
    assert cases[0]["prompt"] == f"{PROMPT} 0" and "unit_key" not in cases[0] and "image" not in cases[0]
    assert sum(row["outcome"] == "hit" for row in rows(out, "outcomes")) == sum(
        row["hits"] for row in rows(out, "rates")
    )


def test_the_manifest_names_every_file_and_the_card_shows_names_as_they_are(plain: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(plain, out) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    for file in manifest["files"]:
        assert hashlib.sha256((out / file["path"]).read_bytes()).hexdigest() == file["sha256"]
        assert file["rows"] == len(rows(out, file["table"]))
    assert front(out)["pretty_name"] == f"{HOSTILE} run-1"
    body = (out / "README.md").read_text().split("---\n", 2)[2]
    assert r"# evil\](javascript:alert(1))&lt;script&gt;: \# x - y" in body
    assert "No decision on it is on record." in body


def test_pictures_are_an_image_feature_with_the_bytes_of_the_journal(plain: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(plain, out, "--pictures") == 0
    assert features(out, "cases")["image"] == {"_type": "Image"}
    schema = pq.read_schema(out / "data" / "cases-00000.parquet")
    assert schema.field("image") == pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    assert features(out, "cases")["score"] == {"dtype": "float64", "_type": "Value"}
    cases = rows(out)
    stored = {
        row["pixel_sha256"]: row["image"]["bytes"]
        for key in plain.keys("generate")
        for row in plain.read("generate", key).to_pylist()
    }
    assert [row["image"]["bytes"] for row in cases] == [stored[row["pixel_sha256"]] for row in cases]
    assert {row["picture"] for row in cases} == {"exported"}
    assert "20 cases have their picture" in (out / "README.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the library is not installed")
def test_the_library_loads_it(plain: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    assert export(plain, tmp_path / "out", "--pictures") == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="test")
    assert loaded.num_rows == 20 and isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].size == (16, 16)


def test_sensitive_pictures_and_prompts_stay_out(
    mixed: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(mixed, out, "--pictures") == 0
    assert "9 sensitive pictures are withheld" in capsys.readouterr().err
    cases = rows(out)
    states = [row["picture"] for row in cases]
    assert states == ["withheld"] * 9 + ["exported"] * 7  # the harmless twin of a sensitive picture is one too
    assert [row["image"] is None for row in cases] == [state == "withheld" for state in states]
    assert all(row["prompt"].startswith("sha256:") for row in cases)
    for path in out.rglob("*.*"):
        assert PHRASE.encode() not in path.read_bytes()
    assert "stand as their SHA-256" in (out / "README.md").read_text()
    assert not any(name.startswith("shown-") for name in _files(mixed))


def test_a_second_option_exports_them_on_record(mixed: Journal, tmp_path: Path) -> None:
    assert export(mixed, tmp_path / "refused", "--show-sensitive") == 2
    assert not (tmp_path / "refused").exists()
    out = tmp_path / "out"
    assert export(mixed, out, "--pictures", "--show-sensitive") == 0
    assert {row["picture"] for row in rows(out)} == {"exported"}
    assert all(row["prompt"].startswith("sha256:") for row in rows(out))
    assert "not-for-all-audiences" in front(out)["tags"]
    assert [json.loads(mixed.get_run("run-1", n))["report"] for n in _files(mixed) if n.startswith("shown-")] == [
        str(out)
    ]


def test_purged_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(str(tmp_path / "runs"))
    Audit(cells=CELLS[1:], spec={"name": "x"}).write(journal)
    place = ["--root", journal.root]
    assert main(["db", "consolidate", *place]) == 0
    purge = ["evidence", "purge", "run-1", "--keep", "digests", "--reason", "the period of pixels is over", "--yes"]
    assert main([*purge, *place]) == 0
    capsys.readouterr()
    assert export(journal, tmp_path / "out", "--pictures") == 0
    assert "8 pictures were removed from storage on purpose" in capsys.readouterr().err
    cases = rows(tmp_path / "out")
    assert {(row["picture"], row["image"]) for row in cases} == {("purged", None)}
    assert all(row["pixel_sha256"] and row["outcome"] for row in cases)


def test_a_run_that_is_not_finished_is_exported_as_far_as_it_is(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "runs"))
    Run("run-1").write_plan(journal)
    assert export(journal, tmp_path / "out", "--pictures") == 0
    assert {(row["picture"], row["status"]) for row in rows(tmp_path / "out")} == {("none", None)}


def test_mistakes_are_one_message_and_leave_nothing(
    plain: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "dataset", "run-9", str(tmp_path / "out"), "--root", plain.root]) == 2
    assert "run-9" in capsys.readouterr().err
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    assert export(plain, tmp_path / "used") == 2
    assert "the folder is in use" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert export(plain, tmp_path / "file" / "below") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "used"]


def _files(journal: Journal) -> list[str]:
    return [name for name, _ in journal.store.entries("runs/run-1")]
