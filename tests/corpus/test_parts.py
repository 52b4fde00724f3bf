"""What was read of a bucket is not read again: by the same run after a kill, and by the next run when nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from audit.corpus import parts
from audit.corpus.ingest import MANIFEST_SCHEMA, manifest
from audit.corpus.parts import Parts
from audit.corpus.sources import S3Source
from audit.storage.objects import ObjectStore
from tests.corpora import LIMITS, entry, png, table
from tests.servers import Environment, moto_server, use

OBJECTS = 23
URL = "s3://parts/set"


@pytest.fixture(scope="module")
def moto() -> Iterator[Environment]:
    with moto_server() as variables:
        yield variables


@pytest.fixture
def read(moto: Environment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that were read from a bucket of pictures, one of which is text."""
    use(monkeypatch, moto)
    monkeypatch.setattr(parts, "PART_ROWS", 4)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    if "parts" not in backend.buckets:
        backend.create_bucket("parts", "us-east-1")
    for number in range(OBJECTS):
        backend.put_object("parts", f"set/{number:02}.png", png(number) if number != 5 else b"text")
    names: list[str] = []
    plain = S3Source.read

    def counted(source: S3Source, uri: str) -> bytes:
        names.append(uri.rpartition("/")[2])
        return plain(source, uri)

    monkeypatch.setattr(S3Source, "read", counted)
    return names


def collected(store: ObjectStore, run_id: str) -> pa.Table:
    batches = manifest([entry(URL)], LIMITS, parts=Parts(store, run_id))
    return pa.Table.from_batches(batches, schema=MANIFEST_SCHEMA)


def test_a_killed_listing_goes_on_where_it_was(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(str(tmp_path))
    written = parts.CorpusParts._write

    def killed(self: parts.CorpusParts) -> None:
        written(self)
        if self._number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts.CorpusParts, "_write", killed)
        collected(store, "run-1")
    read.clear()
    again = collected(store, "run-1")
    assert sorted(read) == [f"{number:02}.png" for number in range(12, OBJECTS)]
    assert again.equals(table(entry(URL)))


def test_the_next_run_reads_what_is_new_or_has_changed(read: list[str], tmp_path: Path) -> None:
    store, backend = ObjectStore(str(tmp_path)), s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    first = collected(store, "run-1")
    read.clear()
    assert collected(store, "run-2").equals(first)
    assert read == []
    backend.put_object("parts", "set/03.png", png(103))
    backend.put_object("parts", "set/00-new.png", png(200))
    backend.delete_object("parts", "set/01.png")
    third = collected(store, "run-3")
    assert sorted(read) == ["00-new.png", "03.png"]
    read.clear()
    assert third.equals(table(entry(URL)))
    (folder,) = _folders(store)
    assert {item.name.partition(".")[0] for item in store.listed(folder)} == {"run-3"}
    backend.delete_object("parts", "set/00-new.png")


def test_damaged_parts_are_read_from_the_corpus_again(read: list[str], tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    first = collected(store, "run-1")
    (folder,) = _folders(store)
    store.put(f"{folder}/run-1.000002.parquet", b"torn")
    read.clear()
    assert collected(store, "run-2").equals(first)
    assert sorted(read) == [f"{number:02}.png" for number in range(8, OBJECTS)]


def test_other_limits_are_another_corpus(read: list[str], tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    collected(store, "run-1")
    read.clear()
    stricter = LIMITS.model_copy(update={"max_pixels": 10})
    batches = list(manifest([entry(URL)], stricter, parts=Parts(store, "run-2")))
    assert len(read) == OBJECTS
    assert all(row["error"] for batch in batches for row in batch.to_pylist())


def _folders(store: ObjectStore) -> list[str]:
    return [f"{parts.FOLDER}/{item.name}" for item in store.listed(parts.FOLDER)]
