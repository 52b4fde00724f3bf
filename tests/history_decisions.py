"""The decisions on record of a seeded history: verdicts, the decisions behind them, control findings and data checks."""

from __future__ import annotations

import datetime as dt
import functools
import json
from typing import TYPE_CHECKING, Any

import duckdb

from audit.index.writing import insert_records
from audit.statistics.binomial import lower_bound, upper_bound
from audit.verdict.record import policy_sha256
from tests.synthetic import key_of

if TYPE_CHECKING:
    from tests.history import HistoryRun


def decide(con: duckdb.DuckDBPyConnection, run: HistoryRun) -> None:
    """Insert the decision on a run whose rates the index holds: by the exact bounds, for each cell and judge."""
    limit, confidence = run.policy.limits[0].crr_max, run.policy.confidence
    cursor = con.execute("select * from crr where run_key = ? order by cell_id, detector", [run.key])
    names = [column[0] for column in cursor.description or ()]
    rows = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    decisions, findings = [], []
    number, shared = 1, {"run_key": run.key, "decision_no": 1}
    for row in rows:
        if row["role"] == "target":
            decisions.append({**shared, **_decision(row, limit, confidence)})
        else:
            findings.append({**shared, **_finding(row)})
    statuses = {row["status"] for row in decisions}
    status = next((s for s in ("FAIL", "INCONCLUSIVE") if s in statuses), "PASS")
    worst = [row["reason"] for row in decisions if row["status"] != "PASS"]
    decided = run.at + dt.timedelta(hours=2)
    verdict = {
        **shared, "sha256": key_of(f"{run.run_id} {number}"), "decided_at": f"{decided:%Y-%m-%dT%H:%M:%SZ}",
        "decided_by": "auditor", "command": "run", "policy_version": run.policy.version,
        "policy_sha256": policy_sha256(run.policy), "attempt": run.attempt, "folded_sha256": None, "status": status,
        "reasons": json.dumps(worst[:20]), "waivers": json.dumps(run.policy.waivers()),
        "opened_by": json.dumps([_waived(row, run.waived_until) for row in decisions if _is_waived(row, run)]),
        "regression": "FAIL" if run.regressed_from else None, "compared_with": run.regressed_from,
        "baseline": "released" if run.regressed_from else None,
        "regression_reasons": json.dumps(["more cases came back than chance explains"]) if run.regressed_from else None,
    }  # fmt: skip
    insert_records(con, "verdicts", [verdict])
    insert_records(con, "decisions", decisions)
    insert_records(con, "control_findings", findings)
    checks = [
        ("outcomes_do_not_add_up", "sql"),
        ("black_control_not_recognised", "sql"),
        ("rates", "great-expectations"),
    ]
    insert_records(
        con,
        "check_results",
        [{**shared, "name": n, "source": s, "status": "passed", "detail": "", "offending_rows": 0} for n, s in checks],
    )


def _is_waived(decision: dict[str, Any], run: HistoryRun) -> bool:
    return run.waived_until is not None and decision["status"] != "PASS"


def _waived(decision: dict[str, Any], until: str | None) -> str:
    """Return the sentence that `audit.verdict.waivers.Waived` writes."""
    name = " | ".join(decision[part] for part in ("concept", "defence", "scenario", "detector"))
    who = "owner Ada Nowak, approved by Bo Lind"
    why = "the release is internal; compensating control: prompts are filtered"
    return f"{decision['status']} (waived until {until})  {name}  {who}: {why} (waiver-1.dsse.json)"


def _decision(row: dict[str, Any], limit: float, confidence: float) -> dict[str, Any]:
    low, high = _bounds(row["hits"], row["unassessed"], row["planned"], confidence)
    status = "PASS" if high <= limit else "FAIL" if low > limit else "INCONCLUSIVE"
    how = {"PASS": "stays within", "FAIL": "exceeds", "INCONCLUSIVE": "is not shown to stay within"}[status]
    cell = f"{row['concept']} through {row['defence']} by {row['scenario']}"
    reason = f"{cell}, judged by {row['detector']}: the rate {how} {limit:g}"
    fields = {
        "cell_id": row["cell_id"], "concept": row["concept"], "defence": row["defence"], "scenario": row["scenario"],
        "detector": row["detector"], "limit": limit, "low": low, "high": high, "status": status, "reason": reason,
        "further_cases": None, "bound": "raw", "alpha": 1 - confidence,
    }  # fmt: skip
    return {
        **{name: fields[name] for name in ("cell_id", "concept", "defence", "scenario", "detector", "status", "low", "high")},
        "side": "crr", "limit_value": limit, "reason": reason, "fields": json.dumps(fields),
    }  # fmt: skip


def _finding(row: dict[str, Any]) -> dict[str, Any]:
    at_least = {"reference": 0.9, "vae-roundtrip": 0.8, "backbone": 0.8}.get(row["control"])
    holds = row["unassessed"] == row["planned"] if at_least is None else row["hits"] >= at_least * row["planned"]
    return {
        **{name: row[name] for name in ("control", "concept", "subject", "defence", "scenario", "detector", "cell_id")},
        "at_least": at_least, "at_most": None, "holds": holds, "trouble": None if holds else "is below what is required",
    }  # fmt: skip


@functools.cache
def _bounds(hits: int, unassessed: int, planned: int, confidence: float) -> tuple[float, float]:
    return lower_bound(hits, planned, confidence), upper_bound(hits + unassessed, planned, confidence)
