"""Write one run as a folder that Hugging Face `datasets` loads: Parquet tables, a card, and pictures where they are asked for.

Without `pictures` there are none. Those of sensitive concepts stay out then too, unless somebody asks for them once more, which
is put on record. Prompts of a run with a sensitive concept stand as their SHA-256, as in evidence bundles.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Container, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit import identity
from audit.evidence.redaction import Redaction, redaction_of
from audit.export.card import DATA, Facts, PictureCounts, card
from audit.export.manifest import ExportedFile, exported, write_manifest
from audit.files import Document, new_folder
from audit.index.published import open_published, require_run
from audit.index.store import explained
from audit.progress.steps import counted
from audit.storage.disclosure import record_disclosure
from audit.storage.journal import Journal
from audit.storage.pictures import Purged, StoredPictures

_CASES = """
select r.run_id, k.cell_id, k.case_no, l.concept, l.subject, l.role, l.control, l.defence, l.scenario, l.kind, l.perturbation,
    l.strength, l.sensitive, k.seed, k.guidance, k.prompt, k.problem, g.status, g.error, o.outcome, o.score, g.pixel_sha256,
    k.image_id, u.unit_key
from cases as k
inner join runs as r on k.run_key = r.run_key
inner join cells as l on k.run_key = l.run_key and k.cell_id = l.cell_id
inner join planned_units as u on k.run_key = u.run_key and k.unit_id = u.unit_id
left join images as g on k.unit_id = g.unit_id and k.image_id = g.image_id
left join outcomes as o
    on k.run_key = o.run_key and k.cell_id = o.cell_id and k.case_no = o.case_no and o.detector = r.first_judge
where k.run_key = $run_key
order by k.cell_id, k.case_no
"""
_OUTCOMES = """
select r.run_id, o.cell_id, o.case_no, o.detector, o.threshold, o.outcome, o.reason, o.score
from outcomes as o
inner join runs as r on o.run_key = r.run_key
where o.run_key = $run_key
order by o.cell_id, o.case_no, o.detector
"""
_RATES = """
select m.* from mart_crr as m inner join runs as r on m.run_id = r.run_id where r.run_key = $run_key
order by m.cell_id, m.detector
"""
_RUN = """
select r.name, r.created_at, v.status, v.policy_version
from runs as r
left join mart_verdicts as v on r.run_id = v.run_id and v.newest
where r.run_key = $run_key
"""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_WHERE = ("image_id", "unit_key")  # where a picture lies in the journal
_GROUP_ROWS, _SHARD_BYTES = 100, 400_000_000
_DTYPES = {"double": "float64", "float": "float32"}  # as `datasets` calls them


@dataclasses.dataclass(frozen=True)
class _Address:
    unit_key: str
    image_id: int


def export_dataset(
    journal: Journal,
    run_id: str,
    published: Path,
    folder: Path,
    now: dt.datetime,
    *,
    pictures: bool = False,
    show_sensitive: bool = False,
) -> Document:
    """Write a run that a published index holds into a new `folder`, and return its manifest.

    `show_sensitive` lets pictures of sensitive concepts out too, on record in the run. Raises `EnvironmentProblem` for a folder
    that is in use or cannot be written, `StoreError` for the index and for a run that it does not know, `JournalError` when a
    picture cannot be read.
    """
    with new_folder(folder) as unfinished, explained(published):
        con = open_published(published)
        try:
            require_run(con, run_id, published)
            key = {"run_key": identity.int_key(run_id)}
            redaction = redaction_of(con, key["run_key"])
            cases, outcomes, rates = (
                redaction.table(con.sql(sql, params=key).to_arrow_table()) for sql in (_CASES, _OUTCOMES, _RATES)
            )
            ((name, created_at, verdict, policy),) = con.execute(_RUN, key).fetchall()
        finally:
            con.close()
        sensitive = _sensitive(cases, redaction)
        shown = pictures and show_sensitive and bool(sensitive)
        if shown:
            record_disclosure(journal, run_id, str(folder), now)  # before any of them is written
        (unfinished / DATA).mkdir()
        with _Shards(unfinished, "cases") as shards:
            counts = None
            if pictures:
                counts = _write_pictures(shards, cases, StoredPictures(journal), () if show_sensitive else sensitive)
            else:
                shards.write(cases.drop_columns(list(_WHERE)))
        files = [*shards.files, *_whole(unfinished, "outcomes", outcomes), *_whole(unfinished, "rates", rates)]
        facts = Facts(run_id, name, created_at, verdict, policy, counts, redaction.acts, shown)
        (unfinished / "README.md").write_text(card(facts, files), encoding="utf-8")
        said = {"run": run_id, "pictures": dataclasses.asdict(counts) if counts else None, "sensitive_shown": shown}
        return write_manifest(unfinished, files, said)


def _sensitive(cases: pa.Table, redaction: Redaction) -> frozenset[str]:
    """Return the pixels of every picture that is sensitive in at least one case of the run."""
    names = pa.array(sorted(redaction.names), pa.string())
    marked = pc.or_(cases["sensitive"], pc.or_(pc.is_in(cases["concept"], names), pc.is_in(cases["subject"], names)))
    return frozenset(cases.filter(marked)["pixel_sha256"].drop_null().to_pylist())


def _write_pictures(shards: _Shards, cases: pa.Table, read: StoredPictures, hidden: Container[str]) -> PictureCounts:
    """Write the cases with their pictures, so many at a time that memory stays bounded, and return how many are there."""
    counts: collections.Counter[str] = collections.Counter()
    batches = cases.to_batches(max_chunksize=_GROUP_ROWS)
    for batch in counted(batches, "export", len(batches), f"times {_GROUP_ROWS} cases"):
        images, states = [], []
        for row in batch.select([*_WHERE, "pixel_sha256", "cell_id", "case_no"]).to_pylist():
            data, state = _picture(read, row, hidden)
            path = f"cell-{row['cell_id']}-case-{row['case_no']}.png"
            images.append({"bytes": data, "path": path} if data else None)
            states.append(state)
        counts.update(states)
        table = pa.Table.from_batches([batch]).drop_columns(list(_WHERE))
        table = table.append_column(pa.field("image", _IMAGE), pa.array(images, _IMAGE))
        shards.write(table.append_column(pa.field("picture", pa.string()), pa.array(states, pa.string())))
    return PictureCounts(**counts)


def _picture(read: StoredPictures, row: Document, hidden: Container[str]) -> tuple[bytes | None, str]:
    if row["pixel_sha256"] is None:
        return None, "none"
    if row["pixel_sha256"] in hidden:
        return None, "withheld"
    try:
        data = read(_Address(row["unit_key"], row["image_id"]))
    except Purged:
        return None, "purged"
    return data, "exported" if data else "none"


def _whole(folder: Path, name: str, table: pa.Table) -> Sequence[ExportedFile]:
    with _Shards(folder, name) as shards:
        shards.write(table)
    return shards.files


class _Shards(contextlib.AbstractContextManager["_Shards"]):
    """The Parquet files of one table; a new one begins when the last has grown large."""

    def __init__(self, folder: Path, name: str) -> None:
        self.files: list[ExportedFile] = []
        self._folder, self._name = folder, name
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._size = 0

    def write(self, table: pa.Table) -> None:
        """Write rows; a table without rows leaves a file with its columns."""
        if self._writer is None:
            schema = table.schema.with_metadata({b"huggingface": json.dumps(_features(table.schema)).encode()})
            self._writer = pq.ParquetWriter(self._folder / self._path(), schema, compression="zstd")
        self._writer.write_table(table.replace_schema_metadata(self._writer.schema.metadata))
        self._rows, self._size = self._rows + table.num_rows, self._size + table.nbytes
        if self._size > _SHARD_BYTES:
            self._finish()

    def __exit__(self, *error: object) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self.files.append(exported(self._folder, self._name, self._path(), self._rows))
            self._writer, self._rows, self._size = None, 0, 0

    def _path(self) -> str:
        return f"{DATA}/{self._name}-{len(self.files):05d}.parquet"


def _features(schema: pa.Schema) -> Document:
    """Return what `datasets` reads of a schema: the type of each column in its words."""

    def feature(field: pa.Field) -> Document:
        if field.type == _IMAGE:
            return {"_type": "Image"}
        return {"dtype": _DTYPES.get(str(field.type), str(field.type)), "_type": "Value"}

    return {"info": {"features": {field.name: feature(field) for field in schema}}}
