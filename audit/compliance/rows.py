"""Read a month of one system from a published index: its runs, and the rows of chosen runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import duckdb
from pydantic import ValidationError

from audit.compliance.records import (
    ControlRow,
    DamageRow,
    QualityRow,
    ResultRow,
    RetentionRow,
    RunRow,
    Unassessed,
)
from audit.errors import StoreError
from audit.files import Document
from audit.index.records import records
from audit.spec.access import access_words
from audit.spec.policy import Policy
from audit.verdict.decisions import stage_words
from audit.verdict.record import policy_sha256

Connection: TypeAlias = duckdb.DuckDBPyConnection

_RUNS = """
with missing as (
    select run_id, sum(unassessed)::bigint as unassessed from mart_crr where role = 'target' group by run_id
),
earlier as (
    select run_id, count(*) as decisions, list(status order by decision_no) filter (where not newest) as earlier_statuses
    from mart_verdicts group by run_id
)
select r.*, p.spec, p.plan_sha256, coalesce(m.unassessed, 0) as unassessed, coalesce(e.decisions, 0) as decisions,
    coalesce(e.earlier_statuses, []) as earlier_statuses, v.sha256 as decision_sha256, v.decided_at, v.decided_by, v.command,
    v.policy_version, v.policy_sha256, v.attempt, v.status, v.reasons, v.waivers, v.opened_by
from mart_runs as r
inner join runs as p on r.run_id = p.run_id
left join missing as m on r.run_id = m.run_id
left join earlier as e on r.run_id = e.run_id
left join mart_verdicts as v on r.run_id = v.run_id and v.newest
where r.system = ? and r.created_at >= ? and r.created_at < ?
order by r.created_at, r.run_id
"""
_RESULTS = """
select d.run_id, d.cell_id, d.concept, d.defence, d.scenario, d.detector, d.status, d.limit_value, d.low, d.high, d.reason,
    d.fields, c.kind, c.planned, c.assessed, c.hits, c.rate, c.ci_low, c.ci_high
from mart_decisions as d
inner join mart_crr as c on d.run_id = c.run_id and d.cell_id = c.cell_id and d.detector = c.detector
where d.newest and d.side = 'crr' and list_contains(?, d.run_id)
order by d.concept, d.defence, d.scenario, d.run_id, d.cell_id, d.detector
"""
_SIDES = """
select run_id, side, concept, defence, detector, status, limit_value, low, high, reason, fields
from mart_decisions where newest and side in ('retention', 'damage') and list_contains(?, run_id)
order by side, concept, defence, run_id, detector, scenario, json_extract_string(fields, '$.stage_no')::integer
"""
_CONTROLS = """
select r.run_id, f.control, f.concept, f.defence, f.scenario, f.detector, c.planned, c.hits, c.unassessed,
    f.at_least, f.at_most, f.holds, f.trouble
from control_findings as f
inner join runs as r on f.run_key = r.run_key
inner join mart_verdicts as v on r.run_id = v.run_id and f.decision_no = v.decision_no and v.newest
left join mart_crr as c on r.run_id = c.run_id and f.cell_id = c.cell_id and f.detector = c.detector
where list_contains(?, r.run_id)
order by r.run_id, f.control, f.concept, f.defence, f.scenario, f.detector, f.cell_id
"""
_CHECKS = """
select r.run_id, c.name, c.status, c.detail, c.offending_rows
from check_results as c
inner join runs as r on c.run_key = r.run_key
inner join mart_verdicts as v on r.run_id = v.run_id and c.decision_no = v.decision_no and v.newest
where list_contains(?, r.run_id) and c.status <> 'passed'
order by all
"""
_QUALITY = """
select q.run_id, c.concept, c.defence, c.scenario, q.metric, q.baseline, q.planned, q.assessed, q.mean, q.median, q.value
from mart_quality as q
inner join runs as r on q.run_id = r.run_id
inner join cells as c on r.run_key = c.run_key and q.cell_id = c.cell_id
where list_contains(?, q.run_id)
order by all
"""


def require_system(con: Connection, system: str, where: str) -> None:
    """Return when the index holds runs of the system. Raises `StoreError` that names the systems it knows."""
    known = [str(row[0]) for row in con.execute("select distinct system from mart_runs order by all").fetchall()]
    if system in known:
        return
    listed = ", ".join(repr(name[:60]) for name in known[:12]) + (", ..." if len(known) > 12 else "")
    near = difflib.get_close_matches(system[:60], [name[:60] for name in known], n=1)
    raise StoreError(
        f"the index knows no system {system[:60]!r}; it knows: {listed or 'none'}",
        where=where,
        next_step=(f"perhaps --system {near[0]!r}; " if near else "name one of these with --system; ")
        + "a run without a system in its spec is known by the spec's name",
    )


def systems(con: Connection, since: str, until: str) -> list[str]:
    """Return the systems of which runs started in [since, until), ISO 8601, by name."""
    sql = "select distinct system from mart_runs where created_at >= ? and created_at < ? order by all"
    return [str(row[0]) for row in con.execute(sql, [since, until]).fetchall()]


def months(con: Connection, system: str) -> list[str]:
    """Return the months in which runs of the system started, oldest first."""
    sql = "select distinct left(created_at, 7) from mart_runs where system = ? order by all"
    return [str(row[0]) for row in con.execute(sql, [system]).fetchall()]


def read_runs(con: Connection, system: str, since: str, until: str) -> tuple[tuple[RunRow, ...], dict[str, Document]]:
    """Return the runs of a system that started in [since, until), ISO 8601, oldest first, and the spec of each by run id.

    A run that scores another's pictures again belongs to no series and is left out.
    """
    rows = [row for row in records(con, _RUNS, [system, since, until]) if row.get("derived_from") is None]
    specs = {row["run_id"]: json.loads(row["spec"]) for row in rows}
    return tuple(_run(row, specs[row["run_id"]]) for row in rows), specs


def _run(row: Document, spec: Document) -> RunRow:
    plain = (
        "run_id", "name", "created_at", "system_version", "owner", "contact",
        "backbone_sha256", "corpus_sha256", "audited_sha256", "plan_sha256",
        "cells", "cases", "units", "units_complete", "units_failed", "unassessed", "decisions", "decision_sha256", "decided_at",
        "decided_by", "command", "policy_version", "policy_sha256", "attempt", "status",
    )  # fmt: skip
    policy = planned_policy(spec)
    return RunRow(
        **{name: row[name] for name in plain},
        planned_policy_sha256=policy_sha256(policy) if policy else None,
        reasons=_sentences(row["reasons"]),
        not_judged=_sentences(row["waivers"]),
        opened_by=_sentences(row["opened_by"]),
        earlier_statuses=tuple(row["earlier_statuses"]),
    )


def _sentences(stored: str | None) -> tuple[str, ...]:
    return tuple(str(sentence) for sentence in json.loads(stored or "[]"))


def planned_policy(spec: Document) -> Policy | None:
    """Return the policy of a stored spec; None when it is of a form that this version does not know."""
    try:
        return Policy.model_validate(spec.get("gate"))
    except ValidationError:
        return None


def read_results(
    con: Connection, specs: Mapping[str, Document], previous: Mapping[tuple[str, ...], str]
) -> tuple[ResultRow, ...]:
    """Return the newest decisions on the audited cells of runs, given with their specs as stored.

    `previous` gives last month's status by run and `result_key`.
    """
    access = {
        (run_id, str(entry.get("name") or entry.get("kind"))): words
        for run_id, spec in specs.items()
        for entry in spec.get("scenarios") or ()
        if (words := access_words(entry)) is not None
    }
    return tuple(_result(row, access, previous) for row in records(con, _RESULTS, [list(specs)]))


def statuses(con: Connection, run_id: str) -> dict[tuple[str, ...], str]:
    """Return concept, defence, scenario and judge -> status of the newest decisions on one run."""
    rows = records(con, _RESULTS, [[run_id]])
    return {result_key(row): str(row["status"]) for row in rows}


def result_key(row: Document) -> tuple[str, ...]:
    """Return the fields by which a cell and judge are matched from one run to another."""
    return row["concept"], row["defence"], row["scenario"], row["detector"]


def _result(row: Document, access: Mapping[tuple[str, str], str], previous: Mapping[tuple[str, ...], str]) -> ResultRow:
    fields: Document = json.loads(row["fields"])
    calibrated = fields.get("melded_low") is not None and fields.get("melded_high") is not None
    return ResultRow(
        run_id=row["run_id"],
        cell_id=row["cell_id"],
        concept=row["concept"],
        defence=row["defence"],
        scenario=row["scenario"],
        kind=row["kind"],
        access=access.get((row["run_id"], row["scenario"]), row["kind"]),
        judge=row["detector"],
        planned=row["planned"],
        assessed=row["assessed"],
        hits=row["hits"],
        rate=row["rate"],
        interval_low=fields["melded_low"] if calibrated else row["ci_low"],
        interval_high=fields["melded_high"] if calibrated else row["ci_high"],
        calibrated=calibrated,
        bound=str(fields.get("bound") or "raw"),
        low=row["low"],
        high=row["high"],
        limit=row["limit_value"],
        status=row["status"],
        reason=row["reason"],
        previous_status=previous.get((row["run_id"], *result_key(row))),
        labels_sha256=fields.get("labels_sha256"),
    )


def read_sides(con: Connection, run_ids: Sequence[str]) -> tuple[tuple[RetentionRow, ...], tuple[DamageRow, ...]]:
    """Return the newest decisions of runs on retention, and on the picture checks of their defences."""
    kept: list[RetentionRow] = []
    damage: list[DamageRow] = []
    for row in records(con, _SIDES, [list(run_ids)]):
        fields: Document = json.loads(row["fields"])
        shared = {name: row[name] for name in ("run_id", "concept", "defence", "status", "reason")}
        if row["side"] == "retention":
            counts = {name: fields[name] for name in ("pairs", "backbone_hits", "defended_hits", "unassessed")}
            bounds = {"minimum": row["limit_value"], "low": row["low"], "high": row["high"]}
            stage = stage_words(fields.get("scenario"), fields.get("stage_no"))
            kept.append(RetentionRow(**shared, judge=row["detector"], **counts, **bounds, stage=stage))
        else:
            numbers = {name: fields[name] for name in ("pictures", "p_value", "level", "damaged")}
            damage.append(DamageRow(**shared, instrument=row["detector"], **numbers))
    return tuple(kept), tuple(damage)


def read_controls(con: Connection, run_ids: Sequence[str]) -> tuple[ControlRow, ...]:
    """Return the control findings of the newest decisions of runs."""
    return tuple(ControlRow(**row) for row in records(con, _CONTROLS, [list(run_ids)]))


def read_failed_checks(con: Connection, run_ids: Sequence[str]) -> Sequence[Document]:
    """Return the data checks that did not pass at the newest decisions of runs."""
    return records(con, _CHECKS, [list(run_ids)])


def read_quality(con: Connection, run_ids: Sequence[str]) -> tuple[QualityRow, ...]:
    """Return every quality number of runs."""
    return tuple(QualityRow(**row) for row in records(con, _QUALITY, [list(run_ids)]))


def read_unassessed(con: Connection, run_ids: Sequence[str]) -> tuple[Unassessed, ...]:
    """Return how many readings of the audited cells of runs are missing, by detector and reason."""
    sql = (
        "select u.run_id, u.detector, u.reason, sum(u.cases)::bigint as cases from mart_unassessed as u"
        " inner join runs as r on u.run_id = r.run_id"
        " inner join cells as c on r.run_key = c.run_key and u.cell_id = c.cell_id and c.role = 'target'"
        " where list_contains(?, u.run_id) group by u.run_id, u.detector, u.reason order by all"
    )
    return tuple(Unassessed(**row) for row in records(con, sql, [list(run_ids)]))
