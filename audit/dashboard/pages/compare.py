"""Two runs side by side: which cases newly came back, which are newly held, and what cannot be paired."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from audit.dashboard.changed_pictures import case_of, picture_pairs
from audit.dashboard.context import Context, Page, PageMissing
from audit.dashboard.links import Query
from audit.dashboard.queries import only
from audit.dashboard.queries import runs as read_runs
from audit.dashboard.tables import Linked, LinkedTable, drawn
from audit.errors import StoreError
from audit.index.records import Row
from audit.index.run_comparison import OtherInstruments, compare_indexed
from audit.report import svg
from audit.report.chart import Axis, Line, Plot, Point, interval_plot, parts
from audit.report.view import Column
from audit.report.words import SYMBOLS, count, interval, limit_text, percent, plain, status_text
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import Change, ComparedCell, Comparison

MOST_CHANGES = 3  # of each cell, judge and direction, in a folder; a server has a page for every case
MOST_LIVE = 24
_SENTENCES = {
    VerdictStatus.FAIL: "It got worse: in at least one cell more cases came back than chance explains.",
    VerdictStatus.PASS: "No regression: in every cell the share of cases that came back is within the margin.",
    VerdictStatus.INCONCLUSIVE: "No regression is shown, and none beyond the margin is excluded.",
}
_WORST_FIRST = {VerdictStatus.FAIL: 0, VerdictStatus.INCONCLUSIVE: 1, VerdictStatus.PASS: 2}
_CELL_COLUMNS = (
    Column("Concept"), Column("Defence"), Column("Scenario"), Column("Judge"), Column("Verdict", "status"),
    Column("Came back", "number"), Column("Newly held", "number"), Column("Pairs", "number"), Column("Not paired", "number"),
    Column("p of worse, corrected", "number"), Column("Difference", "number"), Column("Interval", "number"),
    Column("At most", "number"),
)  # fmt: skip
_UNPAIRED_COLUMNS = (
    Column("Concept"), Column("Defence"), Column("Scenario"), Column("Run"), Column("Cases", "number"), Column("Why"),
)  # fmt: skip
_CHANGE_COLUMNS = (
    Column("Case"), Column("Defence"), Column("Scenario"), Column("Judge"), Column("Seed", "number"), Column("Old picture"),
    Column("New picture"),
)  # fmt: skip


def compare(context: Context, query: Query) -> Page:
    """Return the comparison of the runs that the query names; without a query, the comparisons that suggest themselves."""
    only(query, "old", "new")
    every = read_runs(context)
    if not query.get("old") and not query.get("new"):
        return _choice(context, every)
    known = {row["run_id"] for row in every}
    for side in ("old", "new"):
        if query.get(side, "") not in known:
            named = query.get(side)
            raise PageMissing(
                f"This index has no run {named[:80]!r}." if named else f"The address names no {side} run."
            )
    old, new = query["old"], query["new"]
    most = MOST_LIVE if context.links.live else MOST_CHANGES
    try:
        found = compare_indexed(context.con, context.index or "the index", old, new, most_changes=most)
    except StoreError as error:
        return _refusal(context, every, old, new, error)
    return Page(_title(old, new), "compare.html.j2", _values(context, every, found))


def _title(old: str, new: str) -> str:
    return f"{plain(new, 40)} against {plain(old, 40)}"


def _sides(context: Context, old: str, new: str) -> list[tuple[str, str, str]]:
    return [
        ("Old run", plain(old, 60), context.link("run", run=old)),
        ("New run", plain(new, 60), context.link("run", run=new)),
    ]


def _choice(context: Context, every: Sequence[Row], sides: tuple[str, str] = ("", "")) -> Page:
    systems: dict[str, list[Row]] = {}
    for row in every:
        if not row["derived_from"]:
            systems.setdefault(row["system"], []).append(row)
    columns = (Column("New run"), Column("Old run"), Column("Versions"), Column("Verdicts"))
    tables = [
        LinkedTable(
            f"Each run of {plain(name, 60)} against the one before, newest first",
            columns,
            tuple(_neighbours(context, new, old) for new, old in pairwise(rows)),
        )
        for name, rows in sorted(systems.items())
        if len(rows) > 1
    ]
    return Page("Compare two runs", "compare_choice.html.j2", {"tables": tables, **_form(context, every, *sides)})


def _neighbours(context: Context, new: Row, old: Row) -> tuple[str | Linked, ...]:
    versions = [plain(row["system_version"] or "not stated", 40) for row in (old, new)]
    statuses = [row["status"] or "not decided" for row in (old, new)]
    return (
        Linked(plain(new["run_id"], 60), context.link("compare", old=old["run_id"], new=new["run_id"])),
        plain(old["run_id"], 60),
        versions[0] if versions[0] == versions[1] else f"{versions[0]}, then {versions[1]}",
        statuses[0] if statuses[0] == statuses[1] else f"{statuses[0]}, then {statuses[1]}",
    )


def _form(context: Context, every: Sequence[Row], old: str, new: str) -> dict[str, object]:
    names = [row["run_id"] for row in every]
    fields = [("old", "Old run", names, old), ("new", "New run", names, new)]
    return {"fields": fields, "action": context.link("compare")}


def _refusal(context: Context, every: Sequence[Row], old: str, new: str, error: StoreError) -> Page:
    """Return a page that says why nothing can be said of two runs, which is an answer."""
    differences = [str(difference) for difference in error.differences] if isinstance(error, OtherInstruments) else []
    what = (
        "The two runs were judged by other instruments."
        if differences
        else f"{error.what[:1].upper()}{error.what[1:]}."
    )
    values = {
        "sides": _sides(context, old, new),
        "what": plain(what, 1000),
        "differences": [plain(text, 400) for text in differences],
        "next_step": plain(error.next_step or "", 300),
        **_form(context, every, old, new),
    }
    return Page(_title(old, new), "compare_refusal.html.j2", values)


def _values(context: Context, every: Sequence[Row], found: Comparison) -> dict[str, object]:
    cells = sorted(found.cells, key=lambda cell: (_WORST_FIRST[cell.status], -cell.decision.increase_at_most))
    came_back = sum(cell.row.second_only for cell in found.cells)
    held = sum(cell.row.first_only for cell in found.cells)
    changes = [change for cell in cells for change in found.changes if _place(change) == _place(cell)]
    return {
        "sides": _sides(context, found.old.run_id, found.new.run_id),
        "status": found.status.value,
        "symbol": SYMBOLS[found.status.value],
        "sentence": _SENTENCES[found.status],
        "notes": [plain(note, 300) for note in found.notes],
        "facts": [
            ("Newly came back", f"{count(came_back)} readings over {count(len(cells))} cells and judges"),
            ("Newly held", f"{count(held)} readings"),
            ("Cases that both runs have", f"{count(found.pairs)}, by {plain(found.judges[0], 60)}"),
            ("Margin", limit_text(found.margin)),
            ("Confidence", limit_text(found.confidence)),
        ],
        "pairs": picture_pairs(context, found, _in_turn([change for change in changes if change.came_back])),
        "figures": drawn(_figures(cells, found)),
        "cells": _cells("Cells, worst first", [cell for cell in cells if not _is_steady(cell)]),
        "steady": _cells("Cells that pass and in which no case changed", [cell for cell in cells if _is_steady(cell)]),
        "unpaired": _unpaired(found),
        "tables": [table for came in (True, False) if (table := _changes(context, found, changes, came))],
        **_form(context, every, found.old.run_id, found.new.run_id),
    }


def _in_turn(changes: Sequence[Change]) -> list[Change]:
    """Return changes so that every cell comes before any comes twice."""
    seen: dict[tuple[str, ...], int] = {}
    ranks = []
    for number, change in enumerate(changes):
        cell = _place(change)[:3]
        seen[cell] = seen.get(cell, -1) + 1
        ranks.append((seen[cell], number))
    return [changes[number] for _, number in sorted(ranks)]


def _place(row: ComparedCell | Change) -> tuple[str, str, str, str]:
    return row.concept, row.defence, row.scenario, row.detector


def _is_steady(cell: ComparedCell) -> bool:
    return cell.status is VerdictStatus.PASS and not cell.row.first_only and not cell.row.second_only


def _cells(caption: str, cells: Sequence[ComparedCell]) -> LinkedTable:
    return LinkedTable(caption, _CELL_COLUMNS, tuple(_line(cell) for cell in cells), heads=3)


def _line(cell: ComparedCell) -> tuple[str, ...]:
    row, decision = cell.row, cell.decision
    return (
        plain(cell.concept, 60), plain(cell.defence, 60), plain(cell.scenario, 60), plain(cell.detector, 60),
        status_text(cell.status.value), count(row.second_only), count(row.first_only), count(row.pairs), count(row.unassessed),
        f"{decision.p_worse_adjusted:.2g}", percent(decision.difference),
        interval(decision.difference_low, decision.difference_high), percent(decision.increase_at_most),
    )  # fmt: skip


def _figures(cells: Sequence[ComparedCell], found: Comparison) -> list[Plot]:
    """Return the difference of rates of each cell, one mark for each judge; cells in which nothing changed are left out."""
    places = list(dict.fromkeys(_place(cell)[:3] for cell in cells if cell.row.second_only or cell.row.first_only))
    by_place = {_place(cell): cell for cell in cells}
    lines = [
        Line(
            concept,
            f"{defence}, {scenario}",
            False,
            _points(by_place, (concept, defence, scenario), found),
            found.margin,
        )
        for concept, defence, scenario in sorted(places, key=lambda place: place[0])
    ]
    ends = (-1.0, 1.0)
    ticks = tuple((share / 2, f"{50 * share:+d} %" if share else "0") for share in range(-2, 3))
    marks = tuple((svg.SYMBOLS[i % len(svg.SYMBOLS)], plain(judge, 40)) for i, judge in enumerate(found.judges))
    return [
        interval_plot(
            part,
            Axis(*ends, ticks, "new rate less old rate", (0.0, "no change")),
            prefix=f"change{number}",
            title="Change of the rate in the cells in which a case changed",
            description="; ".join(_in_words(cell) for cell in cells if cell.row.second_only or cell.row.first_only)[
                :4000
            ],
            marks=marks,
        )
        for number, part in enumerate(parts(lines))
    ]


def _points(
    cells: dict[tuple[str, str, str, str], ComparedCell], place: tuple[str, str, str], found: Comparison
) -> tuple[Point, ...]:
    points = []
    for shape, judge in enumerate(found.judges):
        cell = cells.get((*place, judge))
        if cell is not None:
            d = cell.decision
            low, high = (-1.0, 1.0) if d.difference is None else (d.difference_low, d.difference_high)
            points.append(Point(d.difference, low, high, shape))
    return tuple(points)


def _in_words(cell: ComparedCell) -> str:
    place = " ".join(plain(name, 40) for name in _place(cell))
    return f"{place}: {cell.row.second_only} came back, {cell.row.first_only} newly held of {cell.row.pairs}"


def _unpaired(found: Comparison) -> LinkedTable | None:
    rows = tuple(
        (
            plain(u.concept, 60),
            plain(u.defence, 60),
            plain(u.scenario, 60),
            u.side,
            count(u.cases),
            plain(u.sentence, 200),
        )
        for u in found.unpaired
    )
    return LinkedTable("Cases without a partner, and why", _UNPAIRED_COLUMNS, rows, heads=3) if rows else None


def _changes(context: Context, found: Comparison, changes: Sequence[Change], came_back: bool) -> LinkedTable | None:
    rows = tuple(
        (
            plain(c.concept, 60), plain(c.defence, 60), plain(c.scenario, 60), plain(c.detector, 60), str(c.seed),
            Linked(f"old case {c.old_case_no}", case_of(context, found.old.run_id, c.old_cell_id, c.old_case_no)),
            Linked(f"new case {c.new_case_no}", case_of(context, found.new.run_id, c.new_cell_id, c.new_case_no)),
        )
        for c in changes
        if c.came_back is came_back
    )  # fmt: skip
    caption = "Cases that came back" if came_back else "Cases that are held now"
    return (
        LinkedTable(f"{caption} (at most some of each cell and judge)", _CHANGE_COLUMNS, rows, heads=3)
        if rows
        else None
    )
