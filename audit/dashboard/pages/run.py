"""One run: its verdict, the heat map of its decisions, its rates, and the tables behind them."""

from __future__ import annotations

from audit.dashboard.context import Context, Page
from audit.dashboard.heat import heat_map
from audit.dashboard.links import Query
from audit.dashboard.pages.case import case_link
from audit.dashboard.pictures import case_strips
from audit.dashboard.queries import only, texts
from audit.dashboard.queries import run as read_run
from audit.dashboard.queries import runs as read_runs
from audit.dashboard.results import light_result
from audit.dashboard.tables import drawn
from audit.dashboard.waiving import waived_run
from audit.index.case_pictures import telling_cases
from audit.index.records import Row
from audit.report import sections
from audit.report.plots import plots
from audit.report.strips import RULE, Strip
from audit.report.view import Index, cell_title
from audit.report.words import SYMBOLS, plain, verdict_sentence

# Sections of the report that rest on what the index holds in tables; the report of the run has the others too.
SECTIONS = ("audited", "controls", "crr", "unassessed", "checks", "provenance")
_DECISIONS = """
select d.concept, d.defence, d.scenario, d.detector, d.status, d.limit_value, d.low, d.high, $run_id as run_id, v.opened_by,
    c.hits, c.assessed, c.unassessed, c.planned
from decisions as d
inner join verdicts as v on d.run_key = v.run_key and d.decision_no = v.decision_no
left join crr as c on d.run_key = c.run_key and d.cell_id = c.cell_id and d.detector = c.detector
where d.run_key = $run_key and d.decision_no = $decision_no and d.side = 'crr'
order by d.cell_id, d.detector
"""
_ATTEMPTS = "select count(*) from runs where audited_sha256 = ?"


def run(context: Context, query: Query) -> Page:
    """Return the page of one run."""
    only(query, "run")
    row = read_run(context, query.get("run", ""))
    cases = telling_cases(context.con, row["run_id"], _judges(context, row))
    result = light_result(context, row, cases)
    index = Index(result)
    decided = (
        context.rows(_DECISIONS, {name: row[name] for name in ("run_id", "run_key", "decision_no")})
        if row["status"]
        else []
    )
    built = {section.key: section for section in sections.build(result)}
    ((attempts,),) = context.con.execute(_ATTEMPTS, [row["audited_sha256"]]).fetchall()
    values = {
        "run": {**row, **{name: texts(row[name]) for name in ("opened_by", "regression_reasons")}},
        "status": row["status"],
        "symbol": SYMBOLS.get(row["status"], ""),
        "sentence": verdict_sentence(result.verdict) if row["status"] else result.verdict.reasons[0],
        "reasons": [plain(reason, 300) for reason in result.verdict.reasons[: sections.MAX_REASONS]],
        "all_reasons": len(result.verdict.reasons),
        "waived": waived_run(row["opened_by"], context.now),
        "compared": _compared(context, row),
        "summary": _summary(row),
        "facts": _facts(context, row, attempts),
        "map": heat_map(context, decided, row["system"], row["run_id"]),
        "strips": _strips(context, index),
        "rule": RULE,
        "cells": _cells(index) if context.links.live else [],
        "figures": drawn(plots(index)),
        "confidence": index.confidence(),
        "decisions": built["verdict"].tables,
        "sections": [built[key] for key in SECTIONS if key in built],
        "around": _around(context, row),
        "case_form": context.link("case") if context.links.live else "",
    }
    return Page(f"Run {plain(row['run_id'], 60)}", "run.html.j2", values)


def _judges(context: Context, row: Row) -> list[str]:
    """Return the judges by which the pictures are chosen: those that decided, else the run's first."""
    decided = "select distinct detector from decisions where run_key = ? and decision_no = ? order by detector"
    names = [r["detector"] for r in context.rows(decided, [row["run_key"], row["decision_no"]])]
    first = "select first_judge from runs where run_key = ?"
    return names or [r["first_judge"] for r in context.rows(first, [row["run_key"]])]


def _strips(context: Context, index: Index) -> list[tuple[str, Strip, str]]:
    """Return for each concept its pictures and the address of their case."""
    strips = case_strips(context, index)
    run_id = index.result.run_id
    return [(case.concept, strips[case.concept], case_link(context, run_id, case)) for case in index.result.pictured]


def _cells(index: Index) -> list[tuple[int, str]]:
    return [(row.cell_id, cell_title(row)) for row in index.cells.values()]


def _summary(row: Row) -> str:
    version = f", version {plain(row['system_version'], 40)}" if row["system_version"] else ""
    policy = f" Policy {plain(row['policy_version'], 40)}, attempt {row['attempt']}." if row["status"] else ""
    return f"{plain(row['system'], 60)}{version}. Started {plain(row['created_at'], 40)}.{policy}"


def _facts(context: Context, row: Row, attempts: int) -> list[tuple[str, str]]:
    stated = (
        ("System", row["system"]), ("Version", row["system_version"]), ("Owner", row["owner"]), ("Contact", row["contact"]),
        ("Started", row["created_at"]), ("Decided", row["decided_at"]), ("Decided by", row["decided_by"]),
        ("Policy", row["policy_version"]),
    )  # fmt: skip
    facts = [(name, plain(value, 120)) for name, value in stated if value]
    if row["derived_from"]:
        facts.append(("Pictures", f"those of {plain(row['derived_from'], 60)}, scored again; part of no series"))
    if row["attempt"]:
        of = f"; this index holds {attempts} runs of the same models" if attempts > 1 else ""
        facts.append(("Attempt", f"{row['attempt']} at the same claim under this policy{of}"))
    return facts


def _compared(context: Context, row: Row) -> str | None:
    """Return the address of the comparison that the decision rests on too; None where this index lacks the other run."""
    other = row["compared_with"]
    known = context.rows("select run_id from runs where run_id = ?", [other]) if other else []
    return context.link("compare", old=other, new=row["run_id"]) if known else None


def _around(context: Context, row: Row) -> list[tuple[str, str]]:
    """Return links to what stands beside this run: the one before, the one after, the comparison with the one before."""
    series = [other["run_id"] for other in read_runs(context, row["system"]) if not other["derived_from"]]
    links = [("All runs of this system", context.link("runs", system=row["system"]))]
    if row["run_id"] not in series:  # it scores the pictures of another run again
        source = row["derived_from"]
        return [*links, ("The run of these pictures", context.link("run", run=source))] if source in series else links
    place = series.index(row["run_id"])
    older = series[place + 1] if place + 1 < len(series) else None
    newer = series[place - 1] if place else None
    if older:
        links.append(("The run before", context.link("run", run=older)))
    if newer:
        links.append(("The run after", context.link("run", run=newer)))
    if older:
        links.append(("Comparison with the run before", context.link("compare", old=older, new=row["run_id"])))
    return links
