"""Queries that several pages share: systems and their newest decisions, runs, and values that a query may name."""

from __future__ import annotations

import json
from collections.abc import Collection

from audit.dashboard.context import Context, PageMissing, days_between
from audit.dashboard.links import Query
from audit.index.records import Row

# The decision that counts for a run is its newest one; for a cell of a system, that of the newest run that has such a cell.
# A run that scores the pictures of another again is part of no series.
_NEWEST_VERDICTS = """
newest_verdicts as (
    select run_key, max(decision_no) as decision_no from verdicts group by run_key
)"""
NEWEST_DECISIONS = f"""
with {_NEWEST_VERDICTS},
newest as (
    select r.system, r.run_id, r.created_at, d.run_key, d.cell_id, d.concept, d.defence, d.scenario, d.detector, d.status,
        d.limit_value, d.low, d.high, v.opened_by
    from decisions as d
    inner join newest_verdicts as n on d.run_key = n.run_key and d.decision_no = n.decision_no
    inner join verdicts as v on d.run_key = v.run_key and d.decision_no = v.decision_no
    inner join runs as r on d.run_key = r.run_key
    where d.side = 'crr' and r.derived_from is null and ($system = '' or r.system = $system)
    qualify row_number() over (
        partition by r.system, d.concept, d.defence, d.scenario, d.detector order by r.created_at desc, r.run_id desc
    ) = 1
)
select n.*, c.hits, c.assessed, c.unassessed, c.planned, c.rate, c.kind
from newest as n
left join crr as c on n.run_key = c.run_key and n.cell_id = c.cell_id and n.detector = c.detector
order by n.system, n.run_id desc, n.cell_id, n.detector
"""
_SYSTEMS = f"""
with {_NEWEST_VERDICTS},
decided as (
    select r.system, r.run_id, r.created_at, r.name, r.system_version, r.owner, r.contact, v.status, v.waivers, v.decided_at,
        v.policy_version, v.attempt, v.opened_by, v.regression, v.compared_with, v.baseline
    from runs as r
    inner join newest_verdicts as n on r.run_key = n.run_key
    inner join verdicts as v on n.run_key = v.run_key and n.decision_no = v.decision_no
    where r.derived_from is null
    qualify row_number() over (partition by r.system order by r.created_at desc, r.run_id desc) = 1
),
latest as (
    select system, run_id, created_at, system_version, owner, contact, count(*) over (partition by system) as runs
    from runs
    where derived_from is null
    qualify row_number() over (partition by system order by created_at desc, run_id desc) = 1
)
select l.system, l.run_id as latest_run, l.created_at as latest_at, l.runs, coalesce(d.owner, l.owner) as owner,
    coalesce(d.contact, l.contact) as contact, coalesce(d.system_version, l.system_version) as version, d.run_id, d.created_at,
    d.status, d.waivers, d.policy_version, d.attempt, d.opened_by, d.regression, d.compared_with, d.baseline
from latest as l
left join decided as d on l.system = d.system
order by l.system
"""
RUNS = f"""
with {_NEWEST_VERDICTS}
select r.run_key, r.run_id, r.name, r.created_at, r.system, r.system_version, r.owner, r.contact, r.backbone_sha256,
    r.corpus_sha256, r.audited_sha256, r.derived_from, r.confidence, v.status, v.decision_no, v.decided_at, v.decided_by,
    v.command, v.policy_version, v.policy_sha256, v.attempt, v.waivers, v.opened_by, v.regression, v.compared_with, v.baseline,
    v.regression_reasons, v.reasons, v.sha256
from runs as r
left join newest_verdicts as n on r.run_key = n.run_key
left join verdicts as v on n.run_key = v.run_key and n.decision_no = v.decision_no
where ($system = '' or r.system = $system) and ($run = '' or r.run_id = $run)
order by r.created_at desc, r.run_id desc
"""
WORST_FIRST = {"FAIL": 0, "INCONCLUSIVE": 1, None: 2, "PASS": 3}


def systems(context: Context) -> list[Row]:
    """Return every system with its newest decided run, worst first; `stale` where its newest run is too old."""
    rows = context.rows(_SYSTEMS)
    for row in rows:
        row["waivers"] = texts(row["waivers"])
        row["age"] = days_between(row["latest_at"], context.now)
        row["stale"] = row["age"] is None or row["age"] > context.stale_days
        row["undecided"] = row["run_id"] != row["latest_run"]
    return sorted(rows, key=lambda row: (WORST_FIRST[row["status"]], not row["stale"], row["system"]))


def runs(context: Context, system: str = "") -> list[Row]:
    """Return runs with their newest decision, newest first."""
    rows = context.rows(RUNS, {"system": system, "run": ""})
    for row in rows:
        row["waivers"] = texts(row["waivers"])
    return rows


def run(context: Context, run_id: str) -> Row:
    """Return one run with its newest decision. Raises `PageMissing` for one that the index does not know."""
    rows = context.rows(RUNS, {"system": "", "run": run_id}) if run_id else []
    if not rows:
        raise PageMissing(f"This index has no run {run_id!r}." if run_id else "The address names no run.")
    return {**rows[0], "waivers": texts(rows[0]["waivers"]), "reasons": texts(rows[0]["reasons"])}


def texts(stored: object) -> list[str]:
    """Return a JSON list of sentences; none where it is none."""
    try:
        values = json.loads(str(stored)) if stored else []
    except ValueError:
        return []
    return [str(text) for text in values] if isinstance(values, list) else []


def chosen(query: Query, name: str, known: Collection[str]) -> str:
    """Return the value of a query's field, empty without one. Raises `PageMissing` for one that is not `known`."""
    value = query.get(name, "")
    if value and value not in known:
        raise PageMissing(f"This index has no {name} {value[:80]!r}.")
    return value


def only(query: Query, *names: str) -> None:
    """Return when a query has no other fields than these. Raises `PageMissing` otherwise."""
    unknown = sorted(query.keys() - set(names))
    if unknown:
        raise PageMissing(f"This page has no field {unknown[0][:80]!r}.")
