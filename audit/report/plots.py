"""The CRR plot as inline SVG: a mark per rate, its interval, the worst case and the limit."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audit.records import Control
from audit.report import svg
from audit.report.tables import by_scenario
from audit.report.view import Index, defence_name
from audit.report.words import limit_text, percent, plain
from audit.verdict.results import CrrRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = ("o", "s", "D", "^", "v", "P")  # one per detector, in the order of MARK_SYMBOLS
MARK_SYMBOLS = ("●", "■", "◆", "▲", "▼", "✚")
WIDE, NARROW = 920, 340  # CSS pixels
MAX_LINES = 60  # of one figure; a larger concept gets several
_LANE, _GAP, _HEADER, _AXIS, _LABEL = 15, 9, 28, 42, 16  # heights in CSS pixels
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "erasure-audit",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure in a wide and a narrow form, the detectors' marks, and its content in words."""

    caption: str
    wide: str  # sanitised SVG markup
    narrow: str
    marks: tuple[tuple[str, str], ...]  # symbol, detector


@dataclasses.dataclass(frozen=True)
class _Line:
    """One labelled line of the plot: a defence in a scenario, with one row per detector."""

    scenario: str
    label: str
    faint: bool  # a control, drawn for comparison
    rows: tuple[CrrRow, ...]
    limit: float | None


def plots(index: Index) -> tuple[Plot, ...]:
    """The figures of a run, one per concept (several when a concept has many cells)."""
    detectors = list(dict.fromkeys(row.detector for row in index.targets()))
    figures: list[Plot] = []
    for concept in dict.fromkeys(row.concept for row in index.targets()):
        lines = _lines(index, concept)
        for start in range(0, len(lines), MAX_LINES):
            figures.append(_plot(concept, lines[start : start + MAX_LINES], detectors, len(figures)))
    return tuple(figures)


def _lines(index: Index, concept: str) -> list[_Line]:
    rows = [row for row in index.targets() if row.concept == concept]
    lines = []
    for cell_id in dict.fromkeys(row.cell_id for row in by_scenario(rows)):
        cell = [row for row in rows if row.cell_id == cell_id]
        limits = [d.limit for row in cell if (d := index.decisions.get((cell_id, row.detector)))]
        limit = min(limits, default=None)
        lines.append(_Line(cell[0].scenario, defence_name(cell[0]), bool(cell[0].control), tuple(cell), limit))
        twins = [twin for row in cell for twin in index.twin(row, control=Control.UNLEARNED)]
        for twin_id in dict.fromkeys(twin.cell_id for twin in twins):
            same = tuple(twin for twin in twins if twin.cell_id == twin_id)
            label = f"{defence_name(same[0])}, unlearned {plain(same[0].subject)}"
            lines.append(_Line(same[0].scenario, label, True, same, None))
    return lines


def _plot(concept: str, lines: Sequence[_Line], detectors: Sequence[str], number: int) -> Plot:
    title = f"Concept reproduction rate of {plain(concept)} by scenario and defence"
    described = "; ".join(_in_words(line) for line in lines)
    wide, narrow = (
        svg.inline(_draw(lines, detectors, width), prefix=f"crr{number}-{width}-", title=title, description=described)
        for width in (WIDE, NARROW)
    )
    marks = tuple((MARK_SYMBOLS[i % len(MARKS)], plain(name)) for i, name in enumerate(detectors))
    return Plot(title, wide, narrow, marks)


def _in_words(line: _Line) -> str:
    values = ", ".join(f"{plain(row.detector)} {percent(row.rate)}" for row in line.rows)
    return f"{plain(line.scenario)}, {line.label}: {values}"


def _draw(lines: Sequence[_Line], detectors: Sequence[str], width: int) -> bytes:
    """SVG bytes in which one unit is one CSS pixel."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    above = width == NARROW  # labels stand above their line
    left, right = (8, 10) if above else (300, 24)
    height = _height(lines, above)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the reader's browser has its own fonts
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((left / width, 0.0, (width - left - right) / width, 1.0))
        axes.set_xlim(0, 1)
        axes.set_ylim(height, 0)
        axes.axis("off")
        _grid(axes, height, above)
        _place(axes, lines, detectors, above)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _lane_count(line: _Line) -> int:
    return max(1, len(line.rows))


def _height(lines: Sequence[_Line], above: bool) -> int:
    height = _AXIS
    for i, line in enumerate(lines):
        new = i == 0 or lines[i - 1].scenario != line.scenario
        height += (_HEADER if new else 0) + (_LABEL if above else 0) + _lane_count(line) * _LANE + _GAP
    return height


def _grid(axes: Axes, height: int, above: bool) -> None:
    bottom = height - _AXIS + 6
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        side = "center" if not above or 0 < tick < 1 else "left" if tick == 0 else "right"
        axes.plot([tick, tick], [6, bottom], color=svg.GRID, linewidth=1, zorder=0)
        axes.text(tick, bottom + 14, f"{100 * tick:.0f} %", color=svg.MUTED, ha=side, va="center", fontsize=11)
    axes.plot([0, 1], [bottom, bottom], color=svg.MUTED, linewidth=1)


def _place(axes: Axes, lines: Sequence[_Line], detectors: Sequence[str], above: bool) -> None:
    y, scenario = 0.0, None
    for i, line in enumerate(lines):
        if i == 0 or line.scenario != scenario:
            scenario = line.scenario
            group = [other for other in lines if other.scenario == scenario]
            _header(axes, scenario, group, y + _HEADER / 2 + 2, above)
            y += _HEADER
        top = y
        lanes = _lane_count(line) * _LANE
        label = plain(line.label, 48 if above else 44)
        if above:
            axes.text(0, y + _LABEL / 2, label, color=_ink(line), va="center", fontsize=11)
            y += _LABEL
            top = y
        else:
            _outside(axes, label, y + lanes / 2, color=_ink(line))
        for lane, row in enumerate(line.rows):
            _mark(axes, row, detectors.index(row.detector), y + _LANE * (lane + 0.5), line.faint)
        y += lanes + _GAP
        if line.limit is not None:
            axes.plot([line.limit] * 2, [top - 1, y - 4], color=svg.LIMIT, linewidth=2, solid_capstyle="butt", zorder=2)


def _ink(line: _Line) -> str:
    return svg.MUTED if line.faint else svg.INK


def _outside(axes: Axes, text: str, y: float, **style: Any) -> None:
    """Text to the left of the axis, right-aligned."""
    offset: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(text, (0, y), xytext=(-14, 0), ha="right", va="center", annotation_clip=False, **offset, **style)


def _header(axes: Axes, scenario: str, group: Sequence[_Line], y: float, above: bool) -> None:
    name = plain(scenario, 40)
    if above:
        axes.text(0, y, name, color=svg.INK, va="center", fontsize=12, fontweight="bold")
    else:
        _outside(axes, name, y, color=svg.INK, fontweight="bold")
    limits = sorted({line.limit for line in group if line.limit is not None})
    if limits:
        text = "limit " + ", ".join(map(limit_text, limits))
        place: dict[str, Any] = {"ha": "right", "x": 1.0} if above else {"ha": "left", "x": min(limits[0], 0.85)}
        axes.text(place["x"], y, text, color=svg.LIMIT, ha=place["ha"], va="center", fontsize=11)


def _mark(axes: Axes, row: CrrRow, detector: int, y: float, faint: bool) -> None:
    color = svg.MUTED if faint else svg.SERIES
    if row.rate is None:
        _whisker(axes, 0.0, 1.0, y, color)
        axes.text(0.5, y - 5, "nothing assessed", color=svg.MUTED, ha="center", va="center", fontsize=10)
        return
    axes.plot([row.ci_low, row.ci_high], [y, y], color=color, linewidth=4, alpha=0.45, solid_capstyle="butt", zorder=3)
    if row.unassessed:
        _whisker(axes, row.rate, row.worst_case, y, color)
    face = svg.PAPER if faint else color
    mark = MARKS[detector % len(MARKS)]
    axes.plot(
        [row.rate], [y], marker=mark, markersize=7, color=face, markeredgecolor=color, markeredgewidth=1.5,
        clip_on=False, zorder=5,
    )  # fmt: skip


def _whisker(axes: Axes, start: float, end: float, y: float, color: str) -> None:
    style: dict[str, Any] = {"color": color, "clip_on": False, "zorder": 4}
    axes.plot([start, end], [y, y], linewidth=1.2, linestyle=(0, (2, 2)), **style)
    axes.plot([end, end], [y - 5, y + 5], linewidth=1.5, **style)
