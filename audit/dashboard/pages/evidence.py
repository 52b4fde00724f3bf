"""Evidence and attempts: every decision on record, under which policy, and how often the same claim was tried."""

from __future__ import annotations

from collections.abc import Sequence

from audit.dashboard.context import Context, Page
from audit.dashboard.links import Query
from audit.dashboard.queries import chosen, only, texts
from audit.dashboard.tables import Linked, LinkedTable, drawn
from audit.dashboard.times import Lane, moment, verdict_plot
from audit.dashboard.waiving import waived_in, waived_run
from audit.index.records import Row
from audit.report.chart import Plot
from audit.report.view import Column
from audit.report.words import count, plain, status_text

_DECISIONS = """
select r.run_id, r.system, r.system_version, v.decision_no, v.decided_at, v.decided_by, v.command, v.policy_version,
    v.policy_sha256, v.attempt, v.status, v.waivers, v.opened_by, v.sha256, v.folded_sha256
from verdicts as v
inner join runs as r on v.run_key = r.run_key
where $system = '' or r.system = $system
order by v.decided_at desc, r.run_id desc, v.decision_no desc
"""
_CLAIMS = """
with newest_verdicts as (
    select run_key, max(decision_no) as decision_no from verdicts group by run_key
)
select r.system, r.audited_sha256, v.policy_sha256, any_value(v.policy_version) as policy_version, count(*) as runs,
    string_agg(distinct r.system_version, ', ' order by r.system_version) as versions,
    max(v.attempt) as attempts, count(*) filter (where v.status = 'PASS') as passed,
    min(r.created_at) as first, max(r.created_at) as last
from runs as r
inner join newest_verdicts as n on r.run_key = n.run_key
inner join verdicts as v on n.run_key = v.run_key and n.decision_no = v.decision_no
where $system = '' or r.system = $system
group by r.system, r.audited_sha256, v.policy_sha256
order by last desc, r.system
"""
_UNDECIDED = """
select run_id, system, created_at from runs
where run_key not in (select run_key from verdicts) and ($system = '' or system = $system)
order by created_at desc
"""
_DECISION_COLUMNS = (
    Column("Run"), Column("System"), Column("Decision", "number"), Column("Decided"), Column("By"), Column("Command"),
    Column("Policy"), Column("Policy SHA-256", "code"), Column("Attempt", "number"), Column("Verdict", "status"),
    Column("Waived"), Column("Record SHA-256", "code"),
)  # fmt: skip
_CLAIM_COLUMNS = (
    Column("System"), Column("Versions"), Column("Policy"), Column("Policy SHA-256", "code"), Column("Decided runs", "number"),
    Column("Highest attempt", "number"), Column("Passed", "number"), Column("First run"), Column("Last run"),
)  # fmt: skip


def evidence(context: Context, query: Query) -> Page:
    """Return the decisions on record of all systems, or of one."""
    only(query, "system")
    names = [row["system"] for row in context.rows("select distinct system from runs order by system")]
    system = chosen(query, "system", names)
    decisions = context.rows(_DECISIONS, {"system": system})
    undecided = context.rows(_UNDECIDED, {"system": system})
    values = {
        "figures": drawn(_figures(decisions)),
        "decisions": _decisions(context, decisions),
        "claims": _claims(context.rows(_CLAIMS, {"system": system})),
        "undecided": [(plain(row["run_id"], 60), context.link("run", run=row["run_id"])) for row in undecided],
        "waivers": sorted({(row["system"], waiver) for row in decisions for waiver in texts(row["waivers"])}),
        "opened": [_opened(context, row) for row in decisions if texts(row["opened_by"])],
        "chips": [(name, context.link("evidence", system=name), name == system) for name in names[:24]],
        "all": context.link("evidence"),
        "system": system,
    }
    return Page("Evidence and attempts", "evidence.html.j2", values)


def _figures(rows: Sequence[Row]) -> list[Plot]:
    """Return when each policy decided: a change of rules is seen before the table is read."""
    names = list(dict.fromkeys((row["policy_version"], row["policy_sha256"]) for row in rows))[:20]
    lanes = [
        Lane(
            f"{version} ({sha256[:8]})",
            tuple((moment(row["decided_at"]), row["status"]) for row in rows if row["policy_sha256"] == sha256),
        )
        for version, sha256 in names
    ]
    said = "; ".join(f"{plain(lane.label, 60)}: {len(lane.dots)} decisions" for lane in lanes)
    return [verdict_plot(lanes, prefix="policies", title="Decisions by policy", description=said)] if lanes else []


def _opened(context: Context, row: Row) -> dict[str, object]:
    """Return a decision that waivers opened the gate for, and what they cover."""
    return {
        "run": plain(row["run_id"], 60),
        "href": context.link("run", run=row["run_id"]),
        "number": row["decision_no"],
        "waived": waived_run(row["opened_by"], context.now),
        "sentences": texts(row["opened_by"]),
    }


def _decisions(context: Context, rows: Sequence[Row]) -> LinkedTable:
    lines = tuple(
        (
            Linked(plain(row["run_id"], 60), context.link("run", run=row["run_id"])), plain(row["system"], 60),
            count(row["decision_no"]), plain(row["decided_at"], 40), plain(row["decided_by"], 60), plain(row["command"], 20),
            plain(row["policy_version"], 40), plain(row["policy_sha256"][:16]), count(row["attempt"]),
            status_text(row["status"]),
            waived_in(texts(row["waivers"]), row["opened_by"], context.now),
            plain(row["sha256"][:16]),
        )
        for row in rows
    )  # fmt: skip
    return LinkedTable("Decisions on record, newest first", _DECISION_COLUMNS, lines)


def _claims(rows: Sequence[Row]) -> LinkedTable:
    lines = tuple(
        (
            plain(row["system"], 60), plain(row["versions"] or "not stated", 60), plain(row["policy_version"], 40),
            plain(row["policy_sha256"][:16]), count(row["runs"]), count(row["attempts"]), count(row["passed"]),
            plain(row["first"], 40), plain(row["last"], 40),
        )
        for row in rows
    )  # fmt: skip
    return LinkedTable("Claims: the same models under the same policy", _CLAIM_COLUMNS, lines)
