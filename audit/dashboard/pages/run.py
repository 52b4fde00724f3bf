"""One run: its verdict, the heat map of its decisions, its rates, and the tables behind them."""

from __future__ import annotations

from audit.dashboard.context import Context, Page, Row
from audit.dashboard.heat import heat_map
from audit.dashboard.links import Query
from audit.dashboard.queries import only
from audit.dashboard.queries import run as read_run
from audit.dashboard.queries import runs as read_runs
from audit.dashboard.results import light_result
from audit.dashboard.tables import drawn
from audit.report import sections
from audit.report.plots import plots
from audit.report.view import Index
from audit.report.words import SYMBOLS, plain, verdict_sentence

# Sections of the report that rest on what the index holds in tables; the report of the run has the others too.
SECTIONS = ("audited", "controls", "crr", "unassessed", "checks", "provenance")
_DECISIONS = """
select d.concept, d.defence, d.scenario, d.detector, d.status, d.limit_value, d.low, d.high, $run_id as run_id, c.hits,
    c.assessed, c.unassessed, c.planned
from decisions as d
left join crr as c on d.run_key = c.run_key and d.cell_id = c.cell_id and d.detector = c.detector
where d.run_key = $run_key and d.decision_no = $decision_no and d.side = 'crr'
order by d.cell_id, d.detector
"""
_ATTEMPTS = "select count(*) from runs where audited_sha256 = ?"


def run(context: Context, query: Query) -> Page:
    """Return the page of one run."""
    only(query, "run")
    row = read_run(context, query.get("run", ""))
    result = light_result(context, row)
    index = Index(result)
    decided = (
        context.rows(_DECISIONS, {name: row[name] for name in ("run_id", "run_key", "decision_no")})
        if row["status"]
        else []
    )
    built = {section.key: section for section in sections.build(result)}
    ((attempts,),) = context.con.execute(_ATTEMPTS, [row["audited_sha256"]]).fetchall()
    values = {
        "run": row,
        "status": row["status"],
        "symbol": SYMBOLS.get(row["status"], ""),
        "sentence": verdict_sentence(result.verdict) if row["status"] else result.verdict.reasons[0],
        "reasons": [plain(reason, 300) for reason in result.verdict.reasons[: sections.MAX_REASONS]],
        "all_reasons": len(result.verdict.reasons),
        "facts": _facts(context, row, attempts),
        "map": heat_map(context, decided, row["system"], row["run_id"]),
        "figures": drawn(plots(index)),
        "confidence": index.confidence(),
        "decisions": built["verdict"].tables,
        "sections": [built[key] for key in SECTIONS if key in built],
        "around": _around(context, row),
    }
    return Page(f"Run {plain(row['run_id'], 60)}", "run.html.j2", values)


def _facts(context: Context, row: Row, attempts: int) -> list[tuple[str, str]]:
    stated = (
        ("System", row["system"]), ("Version", row["system_version"]), ("Owner", row["owner"]), ("Contact", row["contact"]),
        ("Started", row["created_at"]), ("Decided", row["decided_at"]), ("Decided by", row["decided_by"]),
        ("Policy", row["policy_version"]),
    )  # fmt: skip
    facts = [(name, plain(value, 120)) for name, value in stated if value]
    if row["attempt"]:
        of = f"; this index holds {attempts} runs of the same models" if attempts > 1 else ""
        facts.append(("Attempt", f"{row['attempt']} at the same claim under this policy{of}"))
    return facts


def _around(context: Context, row: Row) -> list[tuple[str, str]]:
    """Return links to what stands beside this run: the one before, the one after, the comparison with the one before."""
    series = [other["run_id"] for other in read_runs(context, row["system"])]
    place = series.index(row["run_id"])
    older = series[place + 1] if place + 1 < len(series) else None
    newer = series[place - 1] if place else None
    links = [("All runs of this system", context.link("runs", system=row["system"]))]
    if older:
        links.append(("The run before", context.link("run", run=older)))
    if newer:
        links.append(("The run after", context.link("run", run=newer)))
    return links
