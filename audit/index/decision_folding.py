"""Fold the decisions on record of a run into the index: verdicts, their decisions, control findings and data checks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import duckdb

from audit.errors import JournalError
from audit.files import Document
from audit.index.writing import insert_records, transaction
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, Record, RecordChanged

_TABLES = ("verdicts", "decisions", "check_results", "control_findings")
_LIMITS = {"crr": "limit", "retention": "minimum", "damage": "level", "blocking": "limit"}
_LISTS = {"crr": "decisions", "retention": "retention", "damage": "damage", "blocking": "blocking"}


def load_decisions(
    con: duckdb.DuckDBPyConnection, journal: Journal, run_id: str, run_key: int, decisions: Sequence[Record]
) -> None:
    """Load those of the run's decisions that the index does not hold.

    `decisions` are all of them, read while nobody else could write the index. Raises `RecordChanged` when one that the
    index holds is missing in the journal.
    """
    loaded = dict(con.execute("select decision_no, sha256 from verdicts where run_key = ?", [run_key]).fetchall())
    records = {record.number: record for record in decisions}
    require_recorded(journal, run_id, records, loaded)
    new = [record for number, record in records.items() if number not in loaded]
    if not new:
        return
    try:
        with transaction(con):
            for table in _TABLES:
                insert_records(
                    con, table, [{**row, "run_key": run_key} for record in new for row in _rows(table, record)]
                )
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise JournalError(
            f"a decision on record has a form that this version does not know: {error}",
            where=journal.store.url(f"runs/{run_id}/{DECISIONS}"),
            next_step="use the version of erasure-audit that wrote it",
        ) from error


def _regression(fields: Document) -> Document:
    """Return what the comparison with an earlier run showed; null where the decision rests on none."""
    old = fields["old"]["run_id"] if fields else None
    reasons = json.dumps(fields["reasons"], ensure_ascii=False) if fields else None
    return {"regression": fields.get("status"), "compared_with": old, "baseline": fields.get("baseline"),
            "regression_reasons": reasons}  # fmt: skip


def require_recorded(journal: Journal, run_id: str, records: Mapping[int, Record], indexed: Mapping[int, str]) -> None:
    """Return when every decision that an index holds is in the journal. Raises `RecordChanged` otherwise.

    `indexed` maps the number of a decision to its digest.
    """
    for number, sha256 in sorted(indexed.items()):
        if number not in records or records[number].sha256 != sha256:
            raise RecordChanged(
                f"decision {number} of this run is in the index and no longer in the journal",
                where=journal.store.url(f"runs/{run_id}/{DECISIONS}/{number:06d}.json"),
                next_step="restore the file from a copy of the journal",
            )


def _rows(table: str, record: Record) -> Iterator[Document]:
    fields, number = record.fields, record.number
    verdict = fields["verdict"]
    if table == "verdicts":
        yield {
            "decision_no": number,
            "sha256": record.sha256,
            "decided_at": fields["at"],
            "decided_by": fields["by"],
            "command": fields["command"],
            "policy_version": fields["policy"]["version"],
            "policy_sha256": fields["policy_sha256"],
            "attempt": fields["attempt"],
            "folded_sha256": fields["folded_sha256"],
            "status": verdict["status"],
            "reasons": json.dumps(verdict["reasons"], ensure_ascii=False),
            "waivers": json.dumps(verdict["waivers"], ensure_ascii=False),
            "opened_by": json.dumps(fields.get("opened_by", []), ensure_ascii=False),
            **_regression(fields.get("regression") or {}),
        }
    elif table == "decisions":
        for side, rows in _LISTS.items():
            for row in verdict.get(rows, ()) if side == "blocking" else verdict[rows]:  # absent without filters
                yield {
                    "cell_id": None,
                    "scenario": None,
                    "low": None,
                    "high": None,
                    **row,
                    "detector": row.get("detector") or row["instrument"],
                    "decision_no": number,
                    "side": side,
                    "limit_value": row[_LIMITS[side]],
                    "fields": json.dumps(row, sort_keys=True),
                }
    elif table == "check_results":
        for row in verdict["checks"]:
            yield {**row, "decision_no": number, "offending_rows": row["rows"]}
    else:
        for row in verdict["controls"]:
            yield {**row, "decision_no": number}
