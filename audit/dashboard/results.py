"""The result of one run, as far as its page shows it: rates, reasons, instruments and the decision on record."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from audit.dashboard.context import Context
from audit.index.records import Row
from audit.report.json_report import read_verdict
from audit.report.view import Index
from audit.verdict.case_pictures import PicturedCase
from audit.verdict.damaged_hits import recounted
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.results import CrrRow, RunResult, UnassessedRow


def light_result(context: Context, run: Row, pictured: Sequence[PicturedCase] = ()) -> RunResult:
    """Return what the index holds of a run in tables; what a mart would have to compute from outcomes is left out.

    As in a report, the hits of a damaged model that are no evidence are unassessed.
    """
    key = [run["run_key"]]
    ((spec, provenance),) = context.con.execute("select spec, provenance from runs where run_key = ?", key).fetchall()
    unassessed = (
        "select cell_id, detector, reason, count(*) as cases, min(error) as example from outcomes"
        " where run_key = ? and outcome = 'unassessed' group by all order by all"
    )
    result = RunResult(
        run_id=run["run_id"],
        name=run["name"],
        created_at=run["created_at"],
        spec=json.loads(spec),
        provenance=json.loads(provenance),
        instruments=tuple(
            context.rows("select * exclude run_key from instruments where run_key = ? order by detector", key)
        ),
        crr=tuple(
            CrrRow(**row)
            for row in context.rows(
                "select * exclude (run_key, confidence) from crr where run_key = ? order by cell_id, detector", key
            )
        ),
        unassessed=tuple(UnassessedRow(**row) for row in context.rows(unassessed, key)),
        round_trips=(),
        samples=(),
        verdict=verdict_on_record(context, run),
        pictured=tuple(pictured),
    )
    policy = Index(result).policy
    return recounted(result, policy, result.verdict) if policy else result


def verdict_on_record(context: Context, run: Row) -> Verdict:
    """Return the run's newest decision; one that says so where there is none."""
    if run["status"] is None:
        return Verdict(VerdictStatus.INCONCLUSIVE, ("The gate has not decided this run yet.",), (), ())
    place = [run["run_key"], run["decision_no"]]
    of_decision = "where run_key = ? and decision_no = ?"
    sides: dict[str, list[Row]] = {"crr": [], "retention": [], "damage": [], "blocking": []}
    for row in context.rows(
        f"select side, fields from decisions {of_decision} order by side, cell_id, detector", place
    ):
        fields = json.loads(row["fields"])
        if row["side"] == "retention" and fields.get("high") is None:
            fields["high"] = math.inf
        sides.setdefault(row["side"], []).append(fields)
    checks = (
        f"select name, source, status, detail, offending_rows as rows from check_results {of_decision} order by all"
    )
    controls = f"select * exclude (run_key, decision_no) from control_findings {of_decision} order by cell_id, detector"
    return read_verdict(
        {
            "status": run["status"],
            "reasons": run["reasons"],
            "decisions": sides["crr"],
            "retention": sides["retention"],
            "damage": sides["damage"],
            "blocking": sides["blocking"],
            "checks": context.rows(checks, place),
            "controls": context.rows(controls, place),
            "waivers": run["waivers"],
            "basis": {"attempt": run["attempt"], "decided_at": run["decided_at"]},
        }
    )
