"""The corpus manifest that is stored with a run: the one that its plan names is read, any other is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.corpus.manifest import MANIFEST_SCHEMA, manifest_sha256, read_stored_manifest
from audit.errors import JournalError
from audit.storage.journal import Journal

ROW = {"uri": "file:///a.png", "role": "target", "concept": "ring", "size_bytes": 3, "pixel_sha256": "0f" * 32}
MANIFEST = pa.Table.from_pylist([ROW], MANIFEST_SCHEMA)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def stored(folder: Path, data: bytes) -> pa.Table:
    journal = Journal(str(folder))
    journal.put_run("run-1", "manifest.parquet", data)
    return read_stored_manifest(journal, "run-1", manifest_sha256(MANIFEST))


def test_the_planned_manifest_is_read(tmp_path: Path) -> None:
    assert stored(tmp_path, parquet(MANIFEST)).to_pylist() == MANIFEST.to_pylist()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is damaged"),
        (parquet(MANIFEST)[:-9], "is damaged"),
        (parquet(pa.table({"uri": [b"\xff"]})), "is damaged"),
        (parquet(MANIFEST.slice(1)), "is not the one that the run was planned from"),
    ],
)
def test_another_is_refused_with_the_next_step(data: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=f"the stored corpus manifest {problem}") as error:
        stored(tmp_path, data)
    assert error.value.where == "run run-1"
    assert error.value.next_step and "erasure-audit run SPEC" in error.value.next_step
