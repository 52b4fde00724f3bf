"""The list of runs: the verdicts of each system over time."""

from __future__ import annotations

from collections.abc import Sequence

from audit.dashboard.context import Context, Page
from audit.dashboard.links import Query
from audit.dashboard.queries import chosen, only
from audit.dashboard.queries import runs as read_runs
from audit.dashboard.tables import Linked, LinkedTable, drawn
from audit.dashboard.times import Lane, moment, verdict_plot
from audit.dashboard.waiving import waived_in
from audit.index.records import Row
from audit.report.chart import Plot
from audit.report.view import Column
from audit.report.words import plain, status_text

_MOST_LANES = 40
_COLUMNS = (
    Column("Run"), Column("System"), Column("Version"), Column("Started"), Column("Verdict", "status"), Column("Policy"),
    Column("Attempt", "number"), Column("Waived"),
)  # fmt: skip


def runs(context: Context, query: Query) -> Page:
    """Return every run, newest first, behind a figure of their verdicts."""
    only(query, "system")
    every = read_runs(context)
    names = sorted({row["system"] for row in every})
    system = chosen(query, "system", names)
    rows = [row for row in every if system in ("", row["system"])]
    table = LinkedTable(
        "Runs, newest first",
        _COLUMNS,
        tuple(
            (
                Linked(plain(row["run_id"], 60), context.link("run", run=row["run_id"])),
                plain(row["system"], 60),
                plain(row["system_version"] or "not stated", 40),
                plain(row["created_at"], 40),
                status_text(row["status"]) if row["status"] else "not decided",
                plain(row["policy_version"] or "none", 40),
                str(row["attempt"] or "none"),
                waived_in(row["waivers"], row["opened_by"], context.now),
            )
            for row in rows
        ),
    )
    values = {
        "figures": drawn(_figures(rows)),
        "table": table,
        "chips": [(n, context.link("runs", system=n), n == system) for n in names[:24]] if len(names) > 1 else [],
        "all": context.link("runs"),
        "system": system,
        "fields": [("system", "System", names, system)],
    }
    title = f"Runs of {plain(system, 60)}" if system else "Runs"
    return Page(title, "runs.html.j2", values)


def _figures(rows: Sequence[Row]) -> list[Plot]:
    names = list(dict.fromkeys(row["system"] for row in rows))[:_MOST_LANES]
    lanes = [
        Lane(name, tuple((moment(row["created_at"]), row["status"]) for row in rows if row["system"] == name))
        for name in names
    ]
    said = "; ".join(
        f"{plain(lane.label, 40)}: " + ", ".join(f"{at:%Y-%m-%d} {status or 'not decided'}" for at, status in lane.dots)
        for lane in lanes
    )
    return [verdict_plot(lanes, prefix="verdicts", title="Verdict of each run", description=said)] if lanes else []
