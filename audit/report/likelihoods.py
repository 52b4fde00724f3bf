"""Draw the likelihood of inverted latents: median and middle 80 % of each group, beside the value for noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from audit.records import Control, Role
from audit.report.chart import Axis, Line, Plot, Point, interval_plot, parts, round_ticks
from audit.report.view import Index, defence_name
from audit.report.words import number, plain
from audit.verdict.results import CrrRow, LatentRow

NOISE = 0.5 * (1 + math.log(2 * math.pi))  # nats per dimension of N(0, I) under itself: 1.419
_MARKS = (("●", "the concept"), ("○", "another class, or the un-erased model"))


@dataclasses.dataclass(frozen=True)
class Group:
    """The inverted latents of one class and inverting model, with their cell."""

    row: LatentRow
    cell: CrrRow

    @property
    def is_a(self) -> str:
        """Return the class's part in the audit: never learned, a neighbour, or the concept."""
        if self.cell.control == Control.UNLEARNED:
            return "never learned"
        return "a neighbour" if self.cell.role == Role.NEIGHBOUR else "the concept"

    @property
    def faint(self) -> bool:
        """Return whether the group is there for comparison only, and drawn faintly."""
        return self.is_a != "the concept" or self.cell.defence == "none"

    @property
    def label(self) -> str:
        """Return defence and class; the scenario stands above."""
        return f"{defence_name(self.cell)}, {plain(self.cell.subject)} ({self.is_a})"


def groups(index: Index) -> list[Group]:
    """Return one group per class and inverting model.

    Black-box latents are the backbone's, whatever they are used on, and a guarded model is inverted without its guards,
    so that its cell repeats the numbers of the bare one.
    """
    groups: dict[tuple[object, ...], Group] = {}
    for row in index.result.latents:
        cell = index.cells.get(row.cell_id)
        if cell is not None and (cell.kind != "latent-blackbox" or cell.defence == "none"):
            numbers = dataclasses.astuple(dataclasses.replace(row, cell_id=0))
            groups.setdefault((cell.scenario, cell.subject, cell.control, numbers), Group(row, cell))
    return list(groups.values())


def likelihoods(index: Index) -> tuple[Plot, ...]:
    """Return the figure of a run: several when it has many groups, none without latents whose likelihood is finite."""
    scenarios = list(dict.fromkeys(group.cell.scenario for group in groups(index)))
    drawn = sorted(filter(_finite, groups(index)), key=lambda group: scenarios.index(group.cell.scenario))
    return tuple(_plot(lines, place) for place, lines in enumerate(parts([_line(group) for group in drawn])))


def _finite(group: Group) -> bool:
    row = group.row
    return all(math.isfinite(value) for value in (row.nll_low, row.nll_median, row.nll_high))


def _line(group: Group) -> Line:
    row = group.row
    return Line(group.cell.scenario, group.label, group.faint, (Point(row.nll_median, row.nll_low, row.nll_high),))


def _plot(lines: Sequence[Line], place: int) -> Plot:
    ends = [NOISE, *(end for line in lines for end in (line.points[0].low, line.points[0].high))]
    margin = max(0.06 * (max(ends) - min(ends)), 0.01)
    low, high = min(ends) - margin, max(ends) + margin
    noise = f"noise {number(NOISE, 3)}"
    axis = Axis(low, high, round_ticks(low, high), "nats per dimension", (NOISE, noise))
    return interval_plot(
        lines,
        axis,
        prefix=f"nll{place}",
        title="Negative log-likelihood of inverted latents under N(0, I), by scenario, defence and class",
        description="; ".join([noise, *map(_in_words, lines)]),
        marks=_MARKS,
    )


def _in_words(line: Line) -> str:
    (point,) = line.points
    values = f"{number(point.value or 0.0, 3)} ({number(point.low, 3)} to {number(point.high, 3)})"
    return f"{plain(line.group)}, {line.label}: {values}"
