"""The likelihood of inverted latents as inline SVG: median and middle 80 % of each group, beside what noise gives."""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audit.records import Control, Role
from audit.report import svg
from audit.report.plots import NARROW, STYLE, WIDE, Plot
from audit.report.view import Index, defence_name
from audit.report.words import number, plain
from audit.verdict.results import CrrRow, LatentRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOISE = 0.5 * (1 + math.log(2 * math.pi))  # nats per dimension of N(0, I) under itself: 1.419
MAX_LINES = 60  # of one figure
_LINE, _HEADER, _LABEL, _TOP, _AXIS = 22, 28, 16, 24, 52  # heights in CSS pixels
_MARKS = (("●", "the concept"), ("○", "another class, or the un-erased model"))


@dataclasses.dataclass(frozen=True)
class Group:
    """The inverted latents of one class and inverting model, with the cell that they are of."""

    row: LatentRow
    cell: CrrRow

    @property
    def is_a(self) -> str:
        """What the class is to the audit."""
        if self.cell.control == Control.UNLEARNED:
            return "never learned"
        return "a neighbour" if self.cell.role == Role.NEIGHBOUR else "the concept"

    @property
    def faint(self) -> bool:
        """Whether it stands there for comparison."""
        return self.is_a != "the concept" or self.cell.defence == "none"

    @property
    def label(self) -> str:
        """Defence and class; the scenario stands above."""
        return f"{defence_name(self.cell)}, {plain(self.cell.subject)} ({self.is_a})"


def groups(index: Index) -> list[Group]:
    """One group per class and inverting model: black-box latents are the backbone's, whatever they are used on, and a
    guarded model is inverted without its guards, so that its cell repeats the numbers of the bare one.
    """
    found: dict[tuple[object, ...], Group] = {}
    for row in index.result.latents:
        cell = index.cells.get(row.cell_id)
        if cell is not None and (cell.scenario != "latent-blackbox" or cell.defence == "none"):
            numbers = dataclasses.astuple(dataclasses.replace(row, cell_id=0))
            found.setdefault((cell.scenario, cell.subject, cell.control, numbers), Group(row, cell))
    return list(found.values())


def likelihoods(index: Index) -> tuple[Plot, ...]:
    """The figure of a run, several when it has many groups, none without latents whose likelihood is finite."""
    scenarios = list(dict.fromkeys(group.cell.scenario for group in groups(index)))
    drawn = sorted(filter(_finite, groups(index)), key=lambda group: scenarios.index(group.cell.scenario))
    return tuple(_plot(drawn[start : start + MAX_LINES], start) for start in range(0, len(drawn), MAX_LINES))


def _finite(group: Group) -> bool:
    row = group.row
    return all(math.isfinite(value) for value in (row.nll_low, row.nll_median, row.nll_high))


def _plot(drawn: Sequence[Group], start: int) -> Plot:
    title = "Negative log-likelihood of inverted latents under N(0, I), by scenario, defence and class"
    described = f"noise {number(NOISE, 3)}; " + "; ".join(map(_in_words, drawn))
    wide, narrow = (
        svg.inline(_draw(drawn, width), prefix=f"nll{start}-{width}-", title=title, description=described)
        for width in (WIDE, NARROW)
    )
    return Plot(title, wide, narrow, _MARKS)


def _in_words(group: Group) -> str:
    row = group.row
    values = f"{number(row.nll_median, 3)} ({number(row.nll_low, 3)} to {number(row.nll_high, 3)})"
    return f"{plain(group.cell.scenario)}, {group.label}: {values}"


def _draw(drawn: Sequence[Group], width: int) -> bytes:
    """SVG bytes in which one unit is one CSS pixel."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    above = width == NARROW  # labels stand above their line
    left, right = (8, 10) if above else (300, 24)
    headers = len({group.cell.scenario for group in drawn})
    height = _TOP + headers * _HEADER + len(drawn) * (_LINE + (_LABEL if above else 0)) + _AXIS
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the reader's browser has its own fonts
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((left / width, 0.0, (width - left - right) / width, 1.0))
        axes.set_xlim(*_range(drawn))
        axes.set_ylim(height, 0)
        axes.axis("off")
        _frame(axes, height - _AXIS + 6)
        _place(axes, drawn, above)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _range(drawn: Sequence[Group]) -> tuple[float, float]:
    """Ends of the axis: every band and the noise's value, with a margin."""
    ends = [NOISE, *(group.row.nll_low for group in drawn), *(group.row.nll_high for group in drawn)]
    margin = max(0.06 * (max(ends) - min(ends)), 0.01)
    return min(ends) - margin, max(ends) + margin


def _frame(axes: Axes, bottom: float) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    style: dict[str, Any] = {"va": "center", "fontsize": 11}
    for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high):
        if low + 0.03 * (high - low) <= tick <= high - 0.03 * (high - low):
            axes.plot([tick, tick], [_TOP, bottom], color=svg.GRID, linewidth=1, zorder=0)
            axes.text(tick, bottom + 12, f"{tick:g}", color=svg.MUTED, ha="center", **style)
    axes.plot([low, high], [bottom, bottom], color=svg.MUTED, linewidth=1)
    axes.text((low + high) / 2, bottom + 30, "nats per dimension", color=svg.MUTED, ha="center", **style)
    axes.plot([NOISE, NOISE], [_TOP, bottom], color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    share = (NOISE - low) / (high - low)
    side = "right" if share > 0.8 else "left" if share < 0.2 else "center"
    axes.text(NOISE, _TOP / 2, f"noise {number(NOISE, 3)}", color=svg.INK, ha=side, **style)


def _place(axes: Axes, drawn: Sequence[Group], above: bool) -> None:
    y, scenario = float(_TOP), None
    for group in drawn:
        if group.cell.scenario != scenario:
            scenario = group.cell.scenario
            _text(axes, plain(scenario, 40), y + _HEADER / 2, above, color=svg.INK, fontweight="bold")
            y += _HEADER
        color = svg.MUTED if group.faint else svg.INK
        if above:
            _text(axes, plain(group.label, 44), y + _LABEL / 2, above, color=color, fontsize=11)
            y += _LABEL
        else:
            _text(axes, plain(group.label, 48), y + _LINE / 2, above, color=color)
        _mark(axes, group, y + _LINE / 2)
        y += _LINE


def _text(axes: Axes, text: str, y: float, above: bool, **style: Any) -> None:
    """Text at the left end of the axis; outside of it, right-aligned, where there is room."""
    offset: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    place: dict[str, Any] = {"xytext": (0, 0), "ha": "left"} if above else {"xytext": (-14, 0), "ha": "right"}
    axes.annotate(text, (0, y), va="center", annotation_clip=False, **place, **offset, **style)


def _mark(axes: Axes, group: Group, y: float) -> None:
    color, row = svg.MUTED if group.faint else svg.SERIES, group.row
    band: dict[str, Any] = {"linewidth": 4, "alpha": 0.45, "solid_capstyle": "butt", "zorder": 3}
    axes.plot([row.nll_low, row.nll_high], [y, y], color=color, **band)
    face = svg.PAPER if group.faint else color
    axes.plot(
        [row.nll_median], [y], marker="o", markersize=7, color=face, markeredgecolor=color, markeredgewidth=1.5,
        clip_on=False, zorder=5,
    )  # fmt: skip
