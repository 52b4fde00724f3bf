"""Manifest files: what is written comes back, and what was damaged or altered does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit import locations
from audit.corpus import ingest
from audit.corpus import manifest as corpus_manifest
from audit.corpus.ingest import items, manifest, manifest_sha256, read_manifest, write_manifest
from audit.errors import CorpusError
from tests.corpora import LIMITS, entry, png, table, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


@pytest.mark.parametrize("form", ["{}/run/manifest.parquet", "file://{}/manifest.parquet"])
def test_manifests_survive_writing_and_reading(folder: Path, tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path)
    expected = table(entry(folder))
    stored = write_manifest(manifest([entry(folder)], LIMITS), url)
    assert (stored.rows, stored.sha256) == (5, manifest_sha256(expected))
    back = read_manifest(url)
    assert back.equals(expected)
    assert [dataclasses.asdict(item)["uri"] for item in items(back)] == expected["uri"].to_pylist()
    assert [path.name for path in Path(locations.absolute(url).removeprefix("file://")).parent.glob("*.tmp")] == []


def test_the_digest_follows_content_not_batches(folder: Path) -> None:
    whole = table(entry(folder))
    cut = pa.Table.from_batches(whole.to_batches(max_chunksize=2))
    assert manifest_sha256(cut) == manifest_sha256(whole)
    before = manifest_sha256(whole)
    (folder / "a.png").write_bytes(png(99))
    assert manifest_sha256(table(entry(folder))) != before


def test_unreadable_manifests_are_refused(folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "manifest.parquet"
    with pytest.raises(CorpusError, match="no manifest here") as caught:
        read_manifest(str(path))
    assert "erasure-audit corpus manifest" in str(caught.value.next_step)
    write_manifest(manifest([entry(folder)], LIMITS), str(path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="cannot be read"):
        read_manifest(str(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(CorpusError, match="not a corpus manifest"):
        read_manifest(str(path))
    path.write_bytes(data)
    with pq.ParquetFile(path) as file:
        header, shorter = (
            {corpus_manifest.METADATA_KEY: file.metadata.metadata[corpus_manifest.METADATA_KEY]},
            file.read()[1:],
        )
    with pq.ParquetWriter(path, ingest.MANIFEST_SCHEMA) as writer:
        writer.write_table(shorter)
        writer.add_key_value_metadata(header)
    with pytest.raises(CorpusError, match="altered"):
        read_manifest(str(path))
    with pytest.raises(CorpusError, match="cannot be written"):
        write_manifest(manifest([entry(folder)], LIMITS), str(path / "below"))


def test_a_manifest_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "1.png").write_bytes(png(0))
    target = tmp_path / "out" / "manifest.parquet"
    with pytest.raises(CorpusError):
        write_manifest(manifest([entry(tmp_path / "ok"), entry(tmp_path / "zzz")], LIMITS), str(target))
    assert not target.exists()


def test_text_that_is_no_utf8_is_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    url = str(tmp_path / "manifest.parquet")
    stored = write_manifest(manifest([entry(write_folder(tmp_path / "pictures"))], LIMITS), url)
    assert stored.rows
    table = pq.read_table(url)
    bad = pa.array([b"\xff"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(0, table.schema.field(0), bad), url)
    with pytest.raises(CorpusError, match="the manifest cannot be read: ") as raised:
        read_manifest(url)
    assert raised.value.next_step and raised.value.where
