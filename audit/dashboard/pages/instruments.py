"""Instruments and controls over time: which judges read the pictures, and whether what has to hold of them did."""

from __future__ import annotations

from collections.abc import Sequence

from audit.dashboard.context import Context, Page
from audit.dashboard.links import Query
from audit.dashboard.queries import chosen, only
from audit.dashboard.tables import Linked, LinkedTable, drawn
from audit.dashboard.times import Dot, in_words, moment, trend_plot
from audit.index.records import Row
from audit.report.chart import Plot
from audit.report.view import Column
from audit.report.words import CONTROLS, count, percent, plain

_INSTRUMENTS = """
select i.detector, i.kind, i.version, i.package, i.weights_sha256, i.threshold, i.instrument_id,
    list(distinct r.system order by r.system) as systems, count(*) as runs, min(r.created_at) as first, max(r.created_at) as last,
    arg_max(r.run_id, r.created_at) as newest
from instruments as i
inner join runs as r on i.run_key = r.run_key
where $system = '' or r.system = $system
group by i.detector, i.kind, i.version, i.package, i.weights_sha256, i.threshold, i.instrument_id
order by i.detector, first desc
"""
# A control of several concepts and scenarios is one rate of all their cases.
_CONTROLS = """
select c.detector, c.control, r.run_id, r.created_at, any_value(c.instrument_id) as instrument_id, sum(c.hits)::bigint as hits,
    sum(c.assessed)::bigint as assessed, sum(c.unassessed)::bigint as unassessed, sum(c.planned)::bigint as planned,
    min(c.confidence) as confidence
from crr as c
inner join runs as r on c.run_key = r.run_key
where c.control is not null and c.perturbation is null and r.derived_from is null and r.system = $system
group by c.detector, c.control, r.run_id, r.created_at
order by c.detector, c.control, r.created_at, r.run_id
"""
_FINDINGS = """
with newest_verdicts as (
    select run_key, max(decision_no) as decision_no from verdicts group by run_key
)
select r.run_id, r.created_at, f.control, f.concept, f.scenario, f.detector, f.trouble
from control_findings as f
inner join newest_verdicts as n on f.run_key = n.run_key and f.decision_no = n.decision_no
inner join runs as r on f.run_key = r.run_key
where f.trouble is not null and ($system = '' or r.system = $system)
order by r.created_at desc, r.run_id, f.control, f.concept, f.detector
"""
_INSTRUMENT_COLUMNS = (
    Column("Judge"), Column("Kind"), Column("Weights SHA-256", "code"), Column("Version"), Column("Package"),
    Column("Threshold", "number"), Column("Systems"), Column("Runs", "number"), Column("First used"), Column("Last used"),
)  # fmt: skip
_CONTROL_COLUMNS = (
    Column("Control"), Column("Judge"), Column("Run"), Column("Started"), Column("Hits / assessed / planned", "number"),
    Column("Rate", "number"),
)  # fmt: skip
_TROUBLE_COLUMNS = (
    Column("Run"), Column("Started"), Column("Control"), Column("Concept"), Column("Judge"), Column("What it does not show"),
)  # fmt: skip
_MOST_TROUBLES = 200


def instruments(context: Context, query: Query) -> Page:
    """Return the judges of all runs, and the controls of one system over time."""
    only(query, "system")
    names = [row["system"] for row in context.rows("select distinct system from runs order by system")]
    system = chosen(query, "system", names)
    shown = system or names[0]
    judges = context.rows(_INSTRUMENTS, {"system": system})
    rows = context.rows(_CONTROLS, {"system": shown})
    troubles = context.rows(_FINDINGS, {"system": system})
    values = {
        "shown": shown,
        "figures": drawn(_figures(rows)),
        "controls": _controls(context, rows),
        "instruments": _instruments(judges),
        "replaced": _replaced(judges),
        "troubles": _troubles(context, troubles[:_MOST_TROUBLES]) if troubles else None,
        "trouble_count": len(troubles),
        "chips": [(name, context.link("instruments", system=name), name == shown) for name in names[:24]],
        "system": system,
    }
    return Page("Instruments and controls", "instruments.html.j2", values)


def _figures(rows: Sequence[Row]) -> list[Plot]:
    figures: list[Plot] = []
    for detector, control in dict.fromkeys((row["detector"], row["control"]) for row in rows):
        dots, segment, before = [], 0, None
        for row in rows:
            if (row["detector"], row["control"]) != (detector, control):
                continue
            changed = before is not None and before != row["instrument_id"]
            segment, before = segment + changed, row["instrument_id"]
            rate = row["hits"] / row["assessed"] if row["assessed"] else None
            dots.append(
                Dot(
                    moment(row["created_at"]),
                    rate,
                    rate or 0.0,
                    rate or 0.0,
                    segment,
                    None,
                    None,
                    "×" if changed else "",
                )
            )
        if any(dot.value is not None for dot in dots):
            name = CONTROLS.get(control, (str(control), ""))[0]
            figures.append(
                trend_plot(
                    dots,
                    prefix=f"control{len(figures)}",
                    title=f"{plain(name, 40)}, {plain(detector, 40)}",
                    description=in_words(dots),
                )
            )
    return figures


def _controls(context: Context, rows: Sequence[Row]) -> LinkedTable:
    lines = tuple(
        (
            plain(CONTROLS.get(row["control"], (str(row["control"]), ""))[0]),
            plain(row["detector"], 60),
            Linked(plain(row["run_id"], 60), context.link("run", run=row["run_id"])),
            plain(row["created_at"], 40),
            f"{count(row['hits'])} / {count(row['assessed'])} / {count(row['planned'])}",
            percent(row["hits"] / row["assessed"] if row["assessed"] else None),
        )
        for row in reversed(rows)
    )
    return LinkedTable("Controls by run, all concepts together", _CONTROL_COLUMNS, lines)


def _instruments(rows: Sequence[Row]) -> LinkedTable:
    lines = tuple(
        (
            plain(row["detector"], 60), plain(row["kind"], 40), plain(row["weights_sha256"][:16]), plain(row["version"], 40),
            plain(row["package"], 40), f"{row['threshold']:g}", plain(", ".join(row["systems"]), 120), count(row["runs"]),
            plain(row["first"], 40), plain(row["last"], 40),
        )
        for row in rows
    )  # fmt: skip
    return LinkedTable("Judges, by the instrument that they are", _INSTRUMENT_COLUMNS, lines)


def _replaced(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each judge that is more than one instrument."""
    sentences = []
    for name in dict.fromkeys(row["detector"] for row in rows):
        same = [row for row in rows if row["detector"] == name]
        if len(same) > 1:
            sentences.append(
                f"{plain(name, 60)} is {len(same)} instruments; the newest came in on {plain(same[0]['first'], 40)}. "
                "Rates by different instruments are not compared."
            )
    return sentences


def _troubles(context: Context, rows: Sequence[Row]) -> LinkedTable:
    lines = tuple(
        (
            Linked(plain(row["run_id"], 60), context.link("run", run=row["run_id"])), plain(row["created_at"], 40),
            plain(CONTROLS.get(row["control"], (row["control"], ""))[0]), plain(row["concept"], 60),
            plain(row["detector"], 60), plain(row["trouble"], 200),
        )
        for row in rows
    )  # fmt: skip
    return LinkedTable("Controls that did not hold", _TROUBLE_COLUMNS, lines)
