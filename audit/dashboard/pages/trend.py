"""The history of one cell: its rate by run, broken where runs cannot be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from audit.dashboard.context import Context, Page, PageMissing
from audit.dashboard.links import HOME, Query
from audit.dashboard.queries import only
from audit.dashboard.tables import Linked, LinkedTable, drawn
from audit.dashboard.times import Dot, in_words, moment, trend_plot
from audit.index.records import Row
from audit.report.tables import CASES
from audit.report.view import Column
from audit.report.words import bound, count, interval, limit_text, percent, plain, status_text

PLACE = ("system", "concept", "defence", "scenario")
_POINTS = """
with newest_verdicts as (
    select run_key, max(decision_no) as decision_no from verdicts group by run_key
)
select r.run_id, r.created_at, r.system_version, r.corpus_sha256, c.cell_id, c.instrument_id, c.threshold, c.detector, c.hits,
    c.assessed, c.unassessed, c.planned, c.rate, c.ci_low, c.ci_high, c.confidence, v.policy_sha256, v.policy_version, d.status,
    d.limit_value, d.low, d.high
from crr as c
inner join runs as r on c.run_key = r.run_key
left join newest_verdicts as n on r.run_key = n.run_key
left join verdicts as v on n.run_key = v.run_key and n.decision_no = v.decision_no
left join decisions as d
    on v.run_key = d.run_key and v.decision_no = d.decision_no and d.side = 'crr' and c.cell_id = d.cell_id
        and c.detector = d.detector
where r.derived_from is null and r.system = $system and c.concept = $concept and c.subject = $concept
    and c.defence = $defence and c.scenario = $scenario and c.perturbation is null
    and (c.role = 'target' or c.control = 'backbone')
order by c.detector, r.created_at, r.run_id
"""
_COLUMNS = (
    Column("Run"), Column("Started"), Column("Version"), Column("Verdict", "status"), Column(CASES, "number"),
    Column("Rate", "number"), Column("Interval", "number"), Column("Bounds that decided", "number"), Column("Limit", "number"),
    Column("Changed before it"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Break:
    """Why the run after it cannot be compared with the one before."""

    mark: str  # a letter, as in the figure
    row: Row
    reasons: tuple[str, ...]


def trend(context: Context, query: Query) -> Page:
    """Return the history of the cell that the query names, by every judge or by one."""
    only(query, *PLACE, "judge")
    place = {name: query.get(name, "") for name in PLACE}
    missing = [name for name, value in place.items() if not value]
    if missing:
        raise PageMissing(f"The address names no {missing[0]}.")
    every = context.rows(_POINTS, place)
    judges = list(dict.fromkeys(row["detector"] for row in every))
    judge = query.get("judge", "")
    if not every or (judge and judge not in judges):
        raise PageMissing("No run of this index has that cell" + (" by that judge." if every else "."))
    parts = [_part(context, [row for row in every if row["detector"] == name], n) for n, name in enumerate(judges)]
    values = {
        "place": place,
        "parts": [part for part in parts if judge in ("", part["judge"])],
        "judge": judge,
        # A file shows all judges; only a server has a page for each.
        "chips": [(name, context.link("trend", place, judge=name), name == judge) for name in judges]
        if context.links.live
        else [],
        "all": context.link("trend", place),
        "back": context.link(HOME, system=place["system"]),
        "confidence": limit_text(every[-1]["confidence"]),
    }
    title = f"{plain(place['concept'], 40)} through {plain(place['defence'], 40)}, {plain(place['scenario'], 40)}"
    return Page(title, "trend.html.j2", values)


def _part(context: Context, rows: Sequence[Row], number: int) -> dict[str, object]:
    breaks = changes(rows)
    by_run = {id(found.row): found for found in breaks}
    dots, segment = [], 0
    for row in rows:
        segment += id(row) in by_run
        mark = by_run[id(row)].mark if id(row) in by_run else ""
        values = (row["rate"], row["ci_low"], row["ci_high"])
        dots.append(Dot(moment(row["created_at"]), *values, segment, row["status"], row["limit_value"], mark))
    judge = rows[0]["detector"]
    figure = trend_plot(
        dots, prefix=f"trend{number}", title=f"Rate by run, {plain(judge, 60)}", description=in_words(dots)
    )
    table = LinkedTable(
        f"Runs by {plain(judge, 60)}, newest first",
        _COLUMNS,
        tuple(_line(context, row, by_run.get(id(row))) for row in reversed(rows)),
    )
    return {"judge": judge, "figures": drawn([figure]), "table": table, "breaks": breaks, "runs": len(rows)}


def _line(context: Context, row: Row, change: Break | None) -> tuple[str | Linked, ...]:
    low, high, limit = row["low"], row["high"], row["limit_value"]
    decided = f"{bound(low, limit)} to {bound(high, limit)}" if low is not None and high is not None else "none"
    return (
        Linked(plain(row["run_id"], 60), context.link("run", run=row["run_id"])),
        plain(row["created_at"], 40),
        plain(row["system_version"] or "not stated", 40),
        status_text(row["status"]) if row["status"] else "not decided",
        f"{count(row['hits'])} / {count(row['assessed'])} / {count(row['planned'])}",
        percent(row["rate"]),
        interval(row["ci_low"], row["ci_high"]),
        decided,
        limit_text(limit) if limit is not None else "none",
        f"{change.mark}: {', '.join(change.reasons)}" if change else "nothing",
    )


def changes(rows: Sequence[Row]) -> list[Break]:
    """Return where instrument, threshold, corpus or policy changed between runs of one judge, oldest first."""
    breaks: list[Break] = []
    for before, after in pairwise(rows):
        reasons = [sentence for field, sentence in _REASONS if before[field] != after[field]]
        if before["policy_sha256"] and after["policy_sha256"] and before["policy_sha256"] != after["policy_sha256"]:
            names = [plain(row["policy_version"], 40) for row in (before, after)]
            reasons.append("another policy" + (f" ({names[0]}, then {names[1]})" if names[0] != names[1] else ""))
        if reasons:
            breaks.append(Break(_letter(len(breaks)), after, tuple(reasons)))
    return breaks


_REASONS = (
    ("instrument_id", "the judge is another instrument"),
    ("threshold", "the judge's threshold changed"),
    ("corpus_sha256", "another corpus"),
)


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)
