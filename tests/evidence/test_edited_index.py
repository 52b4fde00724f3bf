"""An index or a journal that somebody edited: what is sealed comes from the journal, and a verifier is told what was accepted."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from audit.evidence.lines import Answer
from audit.evidence.seal import seal
from audit.evidence.verify import verify
from audit.index.integrity import accept_changes
from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.bundles import NOW, SEALED, Bundle

# One clear case of the defended cell, a little clearer: no decision changes.
EDIT = """
create temp table edited as select unit_id, image_id from cases where cell_id = 0 and case_no = 9;
update scores set score = 0.05 where label = 'ring' and image_id in (select image_id from edited);
update outcomes set score = 0.05 where image_id in (select image_id from edited);
"""


@pytest.fixture
def edited(sealed_once: Bundle, tmp_path: Path) -> Path:
    """A copy of the index of the sealed run, edited so that scores and outcomes agree."""
    copy = tmp_path / "db" / "index.duckdb"
    copy.parent.mkdir()
    shutil.copyfile(sealed_once.index, copy)
    with duckdb.connect(str(copy)) as con:
        con.execute(EDIT)
    return copy


def test_rows_of_an_edited_index_are_not_those_of_the_journal(
    sealed_once: Bundle, edited: Path, tmp_path: Path
) -> None:
    made = seal(sealed_once.journal, "run-1", edited, sealed_once.private, tmp_path / "bundle", SEALED)
    found = verify(made.folder, [sealed_once.public], now=NOW, journal=sealed_once.journal)
    wrong = {line.where: line.detail for line in found.lines if line.answer is Answer.WRONG}
    assert wrong == dict.fromkeys(
        ("data/rows/outcomes.parquet", "data/rows/scores.parquet"), "the rows are not those of the journal's files"
    )


def test_what_is_sealed_is_folded_anew_from_the_journal(sealed_once: Bundle, edited: Path, tmp_path: Path) -> None:
    folder, key = tmp_path / "bundle", sealed_once.private.path
    where = ["--root", str(sealed_once.journal.store.base), "--database", str(edited)]
    assert main(["evidence", "seal", "run-1", "--key", str(key), "--to", str(folder), *where]) == 0
    for table in ("scores", "outcomes"):
        name = f"data/rows/{table}.parquet"
        assert (folder / name).read_bytes() == (sealed_once.folder / name).read_bytes()


def test_files_that_were_accepted_after_a_change_are_told(sealed_once: Bundle, tmp_path: Path) -> None:
    journal = Journal(shutil.copytree(sealed_once.journal.store.base, tmp_path / "journal").as_posix())
    path = next((tmp_path / "journal" / "units").rglob("generate/*/*.parquet"))
    pq.write_table(pq.read_table(path), path, compression="gzip")
    (change,) = accept_changes(journal, "run-1", dt.datetime.now(dt.UTC), "recompressed to save room", "mallory@host")
    made = seal(journal, "run-1", sealed_once.index, sealed_once.private, tmp_path / "bundle", SEALED)
    found = verify(made.folder, [sealed_once.public], now=NOW)
    (told,) = [line for line in found.lines if "put on record anew" in line.detail]
    assert told.answer is Answer.UNCHECKED and change.unit
    assert "by mallory@host (1 files): recompressed to save room" in told.detail
