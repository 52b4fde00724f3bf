"""Read the result of a run from a published copy of the index: rates, reasons, round trips, samples, instruments."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import duckdb

from audit.files import Document
from audit.index.case_pictures import telling_cases
from audit.index.defence_pairs import read_defence_pairs
from audit.index.failure_modes import read_failure_modes
from audit.index.nearest import read_nearest
from audit.index.one_run import create_marts, open_run
from audit.index.published import key_of_run, open_published, require_run
from audit.index.records import Row, records
from audit.index.store import explained
from audit.index.under_policy import under_policy
from audit.spec.policy import Policy
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.results import (
    BlockingRow,
    CountingRow,
    CrrRow,
    Disagreement,
    FilterRow,
    GuardRow,
    JudgePairRow,
    LatentRow,
    PictureCheckRow,
    QualityRow,
    RetentionRow,
    RoundTripRow,
    RunResult,
    Sample,
    UnassessedRow,
)

if TYPE_CHECKING:
    import pandas as pd

_ERROR = 0.05  # after correction: levels at or below it come with pictures
_DISAGREEMENTS = 12  # pictures of a cell and a pair of detectors that a report may show
_UNDECIDED = Verdict(VerdictStatus.INCONCLUSIVE, ("The gate has not decided this run yet.",), (), ())
Record = TypeVar(
    "Record",
    CrrRow,
    UnassessedRow,
    RoundTripRow,
    LatentRow,
    CountingRow,
    QualityRow,
    RetentionRow,
    BlockingRow,
    FilterRow,
)


def read_result(path: str | Path, run_id: str, policy: Policy | None = None, samples_per_cell: int = 24) -> RunResult:
    """Return everything that a report needs of one run; its verdict says that the gate has not decided yet.

    With `policy`, its thresholds and confidence replace the planned ones: raw scores are counted again, nothing is
    measured again. Samples are read by the policy's first judge: hits first, then by score, at most `samples_per_cell`
    a cell. Raises `StoreError` when the index cannot be read or does not know the run.
    """
    with explained(Path(path)), open_counted(Path(path), run_id, policy) as con:
        return read_counted(con, run_id, samples_per_cell, policy.judges if policy is not None else None)


@contextlib.contextmanager
def open_counted(path: Path, run_id: str, policy: Policy | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect the block to the marts of one run, by the policy of its plan or by another one.

    Raises `StoreError` when there is no index at `path` or it does not know the run, and `duckdb.Error` when it cannot be
    read.
    """
    run_key = key_of_run(path, run_id)
    if policy is not None:
        with under_policy(path, run_key, policy) as con:
            yield con
        return
    with open_run(path, run_key) as con:
        create_marts(con)
        yield con


def recorded_decisions(path: str | Path, run_id: str) -> dict[int, str]:
    """Return number -> digest of the decisions of a run that a published index holds; empty for a run that it does not know."""
    con = open_published(path)
    try:
        sql = "select decision_no, sha256 from mart_verdicts where run_id = ?"
        with explained(Path(path)):
            return {int(number): str(sha256) for number, sha256 in con.execute(sql, [run_id]).fetchall()}
    finally:
        con.close()


def result_frames(path: str | Path, run_id: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (rates, readings) of one run as pandas frames, for validation.

    Rates have the columns of mart_crr. Readings have those of mart_reading_extremes: the raw scores that bound all
    others, so the frame stays small whatever the run's size. Raises `StoreError` as `read_result` does.
    """
    with contextlib.closing(open_published(path)) as con, explained(Path(path)):
        require_run(con, run_id, path)
        select = "select * from {} where run_id = ? order by all"
        rates = con.execute(select.format("mart_crr"), [run_id]).df()
        return rates, con.execute(select.format("mart_reading_extremes"), [run_id]).df()


def rates_frame(result: RunResult) -> pd.DataFrame:
    """Return the rates of a result as a frame with the columns that `result_frames` gives: for rates under another policy."""
    import pandas as pd

    return pd.DataFrame([dataclasses.asdict(row) for row in result.crr])


def read_counted(
    con: duckdb.DuckDBPyConnection, run_id: str, samples_per_cell: int = 24, judges: Sequence[str] | None = None
) -> RunResult:
    """Return what `read_result` does from its connection; `judges` are the policy's, by default those of the stored spec."""
    ((name, created_at, spec, provenance, judge),) = con.execute(
        "select name, created_at, spec, provenance, first_judge from runs where run_id = ?", [run_id]
    ).fetchall()
    document = json.loads(spec)
    judges = judges or (document.get("gate") or {}).get("judges") or [judge]
    mart = "select * from {} where run_id = ? order by cell_id"
    instruments = records(con, "select * from mart_instruments where run_id = ? order by detector", [run_id])
    return RunResult(
        run_id=run_id,
        name=name,
        created_at=created_at,
        spec=document,
        provenance={**json.loads(provenance), "computed": _computed(con, run_id)},
        instruments=tuple({key: value for key, value in row.items() if key != "run_id"} for row in instruments),
        crr=_typed(CrrRow, records(con, mart.format("mart_crr") + ", detector", [run_id])),
        unassessed=_typed(UnassessedRow, records(con, mart.format("mart_unassessed") + ", detector, reason", [run_id])),
        round_trips=_typed(RoundTripRow, records(con, mart.format("mart_round_trip"), [run_id])),
        samples=_samples(con, run_id, judge, samples_per_cell),
        verdict=_UNDECIDED,
        erasures=_erasures(con, run_id),
        attacks=_attacks(con, run_id),
        guards=_guards(con, run_id),
        latents=_typed(LatentRow, records(con, mart.format("mart_latents"), [run_id])),
        counting=_typed(CountingRow, records(con, mart.format("mart_nudenet_rules") + ", detector, preset", [run_id])),
        quality=_typed(
            QualityRow, records(con, mart.format("mart_quality") + ", metric, instrument, baseline", [run_id])
        ),
        quality_instruments=_quality_instruments(con, run_id),
        retention=_typed(RetentionRow, records(con, mart.format("mart_retention") + ", detector", [run_id])),
        picture_checks=tuple(
            PictureCheckRow(**row)
            for row in records(
                con, "select * exclude run_id from mart_picture_checks where run_id = ? order by cell_id", [run_id]
            )
        ),
        defence_pairs=read_defence_pairs(con, run_id, document),
        pictured=telling_cases(con, run_id, judges),
        judge_pairs=tuple(
            JudgePairRow(**row)
            for row in records(
                con, "select * exclude run_id from mart_judge_pairs where run_id = ? order by all", [run_id]
            )
        ),
        disagreements=_disagreements(con, run_id),
        blocking=_typed(BlockingRow, records(con, mart.format("mart_blocking"), [run_id])),
        filters=_typed(FilterRow, records(con, mart.format("mart_filters") + ", filter", [run_id])),
        failure_modes=read_failure_modes(con, run_id, document, _ERROR),
        nearest=read_nearest(con, run_id, judge),
    )


def _quality_instruments(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Row, ...]:
    sql = "select * exclude (run_id) from mart_quality_instruments where run_id = ? order by instrument"
    return tuple(records(con, sql, [run_id]))


def _computed(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, str]:
    """Return a sentence for each kind of unit about the machines that computed it."""
    sql = "select * from mart_compute where run_id = ? order by kind, host, device"
    places: dict[str, list[str]] = {}
    for row in records(con, sql, [run_id]):
        count = f"{row['units']} unit{'s' if row['units'] > 1 else ''}"
        place = f"{count} on {row['device'] or 'an unknown device'} of {row['host'] or 'an unknown host'}"
        places.setdefault(row["kind"], []).append(place)
    return {kind: "; ".join(found) for kind, found in places.items()}


def _guards(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[GuardRow, ...]:
    measures: dict[tuple[int, str], dict[str, float]] = {}
    sql = "select cell_id, guard, measure, mean from mart_guard_measures where run_id = ? order by all"
    for row in records(con, sql, [run_id]):
        if row["mean"] is not None:
            measures.setdefault((row["cell_id"], row["guard"]), {})[row["measure"]] = row["mean"]
    rows = records(con, "select * exclude run_id from mart_guards where run_id = ? order by cell_id, guard", [run_id])
    return tuple(GuardRow(**row, measures=measures.get((row["cell_id"], row["guard"]), {})) for row in rows)


def _erasures(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Row, ...]:
    sql = "select artefact, status, facts from mart_erasures where run_id = ? order by artefact, facts"
    return tuple({**row, "facts": json.loads(row["facts"] or "{}")} for row in records(con, sql, [run_id]))


def _attacks(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Row, ...]:
    sql = "select * exclude run_id from mart_attacks where run_id = ? order by all"
    return tuple(records(con, sql, [run_id]))


def _samples(con: duckdb.DuckDBPyConnection, run_id: str, judge: str, per_cell: int) -> tuple[Sample, ...]:
    names = [field.name for field in dataclasses.fields(Sample)]
    order = "outcome = 'hit' desc, score desc nulls last, case_no"
    rows = con.execute(
        f"select {', '.join(names)} from mart_samples where run_id = $run_id and detector = $judge"
        f" qualify row_number() over (partition by cell_id order by {order}) <= $per_cell order by cell_id, {order}",
        {"run_id": run_id, "judge": judge, "per_cell": per_cell},
    ).fetchall()
    return tuple(Sample(*row) for row in rows)


def _disagreements(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[Disagreement, ...]:
    """Return the pictures of each cell and pair of detectors whose scores lie furthest apart, at most `_DISAGREEMENTS`."""
    names = [field.name for field in dataclasses.fields(Disagreement)]
    order = "abs(first_score - second_score) desc nulls last, case_no"
    rows = con.execute(
        f"select {', '.join(names)} from mart_judge_disagreements where run_id = ?"
        f" qualify row_number() over (partition by cell_id, first_detector, second_detector order by {order}) <= {_DISAGREEMENTS}"
        f" order by cell_id, first_detector, second_detector, {order}",
        [run_id],
    ).fetchall()
    return tuple(Disagreement(*row) for row in rows)


def _typed(record: type[Record], rows: list[Row]) -> tuple[Record, ...]:
    """Return mart rows as records; a number that no case gave is NaN where the record wants a float."""
    found = []
    for row in rows:
        values: Document = {
            field.name: math.nan if row[field.name] is None and field.type == "float" else row[field.name]
            for field in dataclasses.fields(record)
        }
        found.append(record(**values))
    return tuple(found)
