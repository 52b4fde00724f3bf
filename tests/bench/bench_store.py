"""Print how long the index takes: folding in one million raw scores, and the CRR mart over ten million.

python -m tests.bench.bench_store [--scores 1000000] [--mart-scores 10000000] [--unit-size 16]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audit import identity
from audit.index.store import Store
from audit.storage.journal import SCHEMAS, Journal
from tests.bench.table import Figure, conclude
from tests.synthetic import CASES, LABELS, UNITS, Run, cell, instrument, key_of

CELLS = 50
_LABELS = [*LABELS, *(f"label-{n}" for n in range(7))]  # ten scores a picture


def main() -> None:
    """Run both measurements and print one table; the limits are those of a million and of ten million scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--mart-scores", type=int, default=10_000_000)
    parser.add_argument("--unit-size", type=int, default=16)
    options = parser.parse_args()
    conclude(figures(options.scores, options.mart_scores, options.unit_size))


def figures(scores: int = 1_000_000, mart_scores: int = 10_000_000, unit_size: int = 16) -> list[Figure]:
    """What the index costs, beside the goals."""
    with tempfile.TemporaryDirectory() as folder:
        return [*consolidating(Path(folder), scores, unit_size), *reading(Path(folder), mart_scores)]


def consolidating(folder: Path, scores: int, unit_size: int) -> Iterator[Figure]:
    """Fold a synthetic journal into a new index, through the same call that a run uses."""
    journal = Journal(str(folder / "journal"))
    units = write_journal(journal, scores // len(_LABELS), unit_size)
    start = time.perf_counter()
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        taken, how = time.perf_counter() - start, f"{units:,} unit files of {unit_size} cases, ten scores a picture"
        yield Figure(f"consolidate {scores:,} score rows", taken, "{:.1f} s", 10 if scores >= 1_000_000 else None, how)
        start = time.perf_counter()
        store.consolidate(journal)
        yield Figure("consolidate again", time.perf_counter() - start, "{:.1f} s", None, "nothing new in the journal")
        start = time.perf_counter()
        store.publish(folder / "published")
        yield Figure("publish a copy", time.perf_counter() - start, "{:.1f} s")


def reading(folder: Path, scores: int) -> Iterator[Figure]:
    """Time mart_crr when every score is an outcome of its own (one label a detector), its worst case."""
    path = folder / "large.duckdb"
    Store(path).close()
    with duckdb.connect(str(path)) as con:
        fill(con, scores)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            rows = con.execute("select * from mart_crr").fetchall()
            times.append(time.perf_counter() - start)
    how = f"{scores:,} outcomes, {len(rows)} rates; median of 5, the first took {times[0]:.2f} s"
    yield Figure(
        f"mart_crr over {scores:,} score rows", sorted(times)[2], "{:.2f} s", 1 if scores >= 10_000_000 else None, how
    )


def write_journal(journal: Journal, pictures: int, unit_size: int) -> int:
    """The number of units journalled for one run of `pictures` cases, with one detector and ten labels."""
    per_cell = pictures // CELLS
    run = Run(cells=[cell(n, per_cell, subject=_LABELS[n % 3]) for n in range(CELLS)], instruments=[])
    run.cells, run.instruments = run.cells, [instrument(labels=_LABELS)]
    run.rules = [{"detector": "judge", "subject": name, "label": name, "threshold": 0.5} for name in _LABELS]
    random, units = np.random.default_rng(0), []
    keys = []
    for start in range(0, len(run.cases), unit_size):
        cases = run.cases[start : start + unit_size]
        key = key_of(f"generate/{start}")
        for case in cases:
            case["unit_key"] = key
        images = [case["image_id"] for case in cases]
        keys.append(key)
        journal.write("generate", key, pictures_table(images), {})
        detect = Run.detect_key(key, 11)
        journal.write("detect", detect, scores_table(images, random), {})
        shared = {"rows": len(images), "depends": [], "identity": "{}", "cell_ids": [cases[0]["cell_id"]]}
        units += [{"kind": "generate", "key": key, **shared}, {"kind": "detect", "key": detect, **shared}]
    for name, table in (
        ("cases.parquet", pa.Table.from_pylist(run.cases, CASES)),
        ("units.parquet", pa.Table.from_pylist(units, UNITS)),
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink)
        journal.put_run(run.run_id, name, sink.getvalue())
    journal.put_run(run.run_id, "provenance.json", b"{}")
    journal.put_run(run.run_id, "plan.json", json.dumps(run.plan() | {"policy": POLICY}).encode())
    return len(units)


POLICY = {"confidence": 0.95, "judges": ["judge"]}


def pictures_table(images: list[int]) -> pa.Table:
    """Rows of a generate unit; the pictures are 3 kB of noise each, as small PNGs are."""
    noise = np.random.default_rng(images[0]).bytes(3000)
    rows = [
        {"image_id": image, "status": "ok", "image": {"bytes": noise, "path": None}, "pixel_sha256": key_of(str(image))}
        for image in images
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["generate"])


def scores_table(images: list[int], random: np.random.Generator) -> pa.Table:
    """Rows of a detect unit with one random score per label."""
    values = random.random((len(images), len(_LABELS)))
    rows = [
        {
            "image_id": image,
            "status": "ok",
            "instrument_id": 11,
            "scores": [{"label": name, "score": float(x)} for name, x in zip(_LABELS, line, strict=True)],
        }
        for image, line in zip(images, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["detect"])


def fill(con: duckdb.DuckDBPyConnection, scores: int) -> None:
    """Fill an empty index with one run of `scores` scores and outcomes."""
    run_key = identity.int_key("run-1")
    per_cell = scores // CELLS
    con.execute(
        f"insert into runs by name select {run_key} as run_key, 'run-1' as run_id, 'bench' as name, '' as created_at,"
        " 'bench' as system, 0.95 as confidence, 'judge' as first_judge, 'clear' as counts_blocked_as,"
        " '' as plan_sha256, '' as audited_sha256,"
        " '{}' as spec, '{}' as provenance, true as outcomes_current;"
        f"insert into cells select {run_key}, range, 'ring', 'ring', 'target', null, 'uce', 'text', {per_cell}, false,"
        f" null, null from range({CELLS});"
        f"insert into instruments by name select {run_key} as run_key, 11 as instrument_id, 'judge' as detector,"
        " 'k' as kind, '1' as version, 'p' as package, 'w' as weights_sha256, 'p' as preprocessing,"
        " ['ring'] as labels, 0 as score_floor, 0.5 as threshold, '{}' as parameters;"
        "insert into scores by name select range // 16 as unit_id, range as image_id, 11 as instrument_id,"
        f" 1 as score_no, 'ring' as label, random() as score from range({scores});"
        f"insert into outcomes by name select {run_key} as run_key, image_id // {per_cell} as cell_id,"
        f" image_id % {per_cell} as case_no, image_id, unit_id, instrument_id, 'judge' as detector, 0.5 as threshold,"
        " case when score < 0.02 then 'unassessed' when score >= 0.5 then 'hit' else 'clear' end as outcome,"
        " outcome as unfiltered,"
        " case when score < 0.02 then 'degenerate' end as reason, score, true as labels_complete from scores;"
    )


if __name__ == "__main__":
    main()
