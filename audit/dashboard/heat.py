"""The heat map: one row for each concept and defence, one column for each scenario, the worst first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.dashboard.context import Context
from audit.dashboard.queries import WORST_FIRST
from audit.dashboard.waiving import waived_cell
from audit.index.records import Row
from audit.report.words import NOT_AVAILABLE, SYMBOLS, bound, plain

MOST_OPEN = 8  # rows with a cell that does not pass


@dataclasses.dataclass(frozen=True)
class HeatCell:
    """The decision that counts for one cell: the worst one of its judges."""

    status: str
    symbol: str
    counts: str  # hits/assessed
    unassessed: int
    bound: str
    judge: str
    judges: int
    href: str
    waived: str  # what waivers did for it; empty for most
    older: bool  # from another run than the system's newest decided one
    run_id: str
    weight: tuple[int, float]


@dataclasses.dataclass(frozen=True)
class HeatRow:
    """The cells of one concept and defence, by scenario; None where there is none."""

    concept: str
    defence: str
    cells: tuple[HeatCell | None, ...]

    @property
    def passes(self) -> bool:
        """Whether every cell passes."""
        return all(cell is None or cell.status == "PASS" for cell in self.cells)


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """The decisions of one system, or of one run."""

    scenarios: tuple[str, ...]
    open: tuple[HeatRow, ...]  # with a cell that does not pass
    passed: tuple[HeatRow, ...]
    counts: tuple[tuple[str, int], ...]  # status, cells

    @property
    def worst(self) -> tuple[HeatRow, ...]:
        """The open rows that are shown at once."""
        return self.open if len(self.open) <= MOST_OPEN + 2 else self.open[:MOST_OPEN]

    @property
    def further(self) -> tuple[HeatRow, ...]:
        """The open rows behind them."""
        return self.open[len(self.worst) :]

    @property
    def cells(self) -> int:
        """The number of cells that were decided."""
        return sum(count for _, count in self.counts)


def heat_map(context: Context, rows: Sequence[Row], system: str, newest_run: str) -> HeatMap:
    """Return the map of `rows`, which hold a decision for each cell and judge; every cell links to its trend."""
    scenarios = tuple(dict.fromkeys(row["scenario"] for row in rows))
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["concept"], row["defence"], row["scenario"]), []).append(row)
    by_place = {place: _cell(context, decided, system, newest_run) for place, decided in cells.items()}
    lines = [
        HeatRow(concept, defence, tuple(by_place.get((concept, defence, scenario)) for scenario in scenarios))
        for concept, defence in dict.fromkeys(place[:2] for place in cells)
    ]
    lines.sort(key=lambda line: min(cell.weight for cell in line.cells if cell))
    statuses = [cell.status for cell in by_place.values()]
    return HeatMap(
        scenarios,
        tuple(line for line in lines if not line.passes),
        tuple(line for line in lines if line.passes),
        tuple((status, statuses.count(status)) for status in SYMBOLS if status in statuses),
    )


def _cell(context: Context, rows: Sequence[Row], system: str, newest_run: str) -> HeatCell:
    worst = min(rows, key=_weight)
    assessed = worst["assessed"]
    names = {name: worst[name] for name in ("concept", "defence", "scenario")}
    return HeatCell(
        status=worst["status"],
        symbol=SYMBOLS.get(worst["status"], ""),
        counts=NOT_AVAILABLE if assessed is None else f"{worst['hits']}/{assessed}",
        unassessed=worst["unassessed"] or 0,
        bound=decided_bound(worst),
        judge=plain(worst["detector"], 40),
        judges=len(rows),
        href=context.link("trend", system=system, **names),
        waived=waived_cell(worst, context.now),
        older=worst["run_id"] != newest_run,
        run_id=worst["run_id"],
        weight=_weight(worst),
    )


def _weight(row: Row) -> tuple[int, float]:
    bound = row["low"] if row["status"] == "FAIL" else row["high"]
    return WORST_FIRST.get(row["status"], 2), -(bound if bound is not None else 1.0)


def decided_bound(row: Row) -> str:
    """Return the bound that a decision rests on: the lower one where the limit is exceeded, else the upper one."""
    value, sign = (row["low"], "≥") if row["status"] == "FAIL" else (row["high"], "≤")
    return f"{sign} {bound(value, row['limit_value'])}" if value is not None else "not bounded"
