"""The overview: every system with the newest decision on each of its cells."""

from __future__ import annotations

from itertools import groupby

from audit.dashboard.context import Context, Page
from audit.dashboard.heat import heat_map
from audit.dashboard.links import HOME, Query
from audit.dashboard.queries import NEWEST_DECISIONS, WORST_FIRST, chosen, only, systems
from audit.dashboard.waiving import waived_run
from audit.report.words import SYMBOLS

FIELDS = ("system", "concept", "judge", "status")


def overview(context: Context, query: Query) -> Page:
    """Return the heat maps of all systems, worst first."""
    only(query, *FIELDS)
    every = systems(context)
    system = chosen(query, "system", {row["system"] for row in every})
    rows = context.rows(NEWEST_DECISIONS, {"system": system})
    known = {
        "concept": sorted({row["concept"] for row in rows}),
        "judge": sorted({row["detector"] for row in rows}),
        "status": [status for status in WORST_FIRST if status],
    }
    concept, judge, status = (chosen(query, name, known[name]) for name in ("concept", "judge", "status"))
    rows = [
        row for row in rows if (not concept or row["concept"] == concept) and (not judge or row["detector"] == judge)
    ]
    decided = {name: list(group) for name, group in groupby(rows, key=lambda row: row["system"])}
    shown = []
    for row in every:
        if system in ("", row["system"]) and status in ("", row["status"]):
            maps = heat_map(context, decided.get(row["system"], []), row["system"], row["run_id"])
            shown.append(
                {
                    **row,
                    "map": maps,
                    "waived": waived_run(row["opened_by"], context.now),
                    "symbol": SYMBOLS.get(row["status"], ""),
                    "run": context.link("run", run=row["run_id"]) if row["run_id"] else None,
                    "latest": context.link("run", run=row["latest_run"]),
                    "all_runs": context.link("runs", system=row["system"]),
                    "only": context.link(HOME, system=row["system"]),
                }
            )
    values = {
        "systems": shown,
        "total": len(every),
        "counts": [(s, SYMBOLS[s], sum(row["status"] == s for row in every)) for s in known["status"]],
        "undecided": sum(row["status"] is None for row in every),
        "stale": sum(row["stale"] for row in every),
        "stale_days": context.stale_days,
        "chips": _chips(context, query, {"system": sorted(row["system"] for row in every), **known}),
        "fields": [
            ("system", "System", sorted(row["system"] for row in every), system),
            ("concept", "Concept", known["concept"], concept),
            ("judge", "Judge", known["judge"], judge),
            ("status", "Verdict", known["status"], status),
        ],
        "filtered": [value for value in (system, concept, judge, status) if value],
        "home": context.link(HOME),
    }
    return Page("Overview", "overview.html.j2", values, heading="Does an erased concept come back?")


MOST_CHIPS = 24


def _chips(
    context: Context, query: Query, known: dict[str, list[str]]
) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Return, for each field, links that choose one of its values alone, so that a static site has as many pages as values."""
    names = {"system": "System", "concept": "Concept", "judge": "Judge", "status": "Verdict"}
    return [
        (names[field], [(v, context.link(HOME, {field: v}), query.get(field) == v) for v in values[:MOST_CHIPS]])
        for field, values in known.items()
        if len(values) > 1
    ]
