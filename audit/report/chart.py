"""Draw the chart of a report: values with their intervals on labelled lines, wide for a screen and narrow for a phone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from audit.report.svg import GRID, INK, LIMIT, MUTED, SERIES, Drawing
from audit.report.words import limit_text, plain

WIDE, NARROW = 920, 340  # CSS pixels
MAX_LINES = 60  # of one figure; a longer list gets several
SHARES = tuple((share / 4, f"{25 * share} %") for share in range(5))
_LANE, _GAP, _HEADER, _LABEL, _AXIS, _UNIT, _TOP = 15, 9, 28, 16, 42, 12, 24  # heights in CSS pixels


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure in a wide and a narrow form, with the symbol and the name of each kind of mark."""

    caption: str
    wide: str  # SVG markup
    narrow: str
    marks: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Point:
    """One value with its interval. `shape` is the index of its mark in `svg.SHAPES`."""

    value: float | None  # None: nothing was assessed
    low: float
    high: float
    shape: int = 0
    worst: float | None = None  # the end of a dotted whisker


@dataclasses.dataclass(frozen=True)
class Line:
    """One labelled line, with its points below each other. Lines of one `group` stand together under its name."""

    group: str
    label: str
    faint: bool  # a control, drawn for comparison
    points: tuple[Point, ...]
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """The axis of a chart: its ends, its ticks, its unit, and one value to compare with."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    unit: str = ""
    reference: tuple[float, str] | None = None


def plot(
    draw: Callable[[int], Drawing], *, prefix: str, title: str, description: str, marks: tuple[tuple[str, str], ...]
) -> Plot:
    """Return the figure that `draw` makes at both widths. `description` says in words what it shows."""
    wide, narrow = (
        draw(width).markup(prefix=f"{prefix}-{width}-", title=title, description=description)
        for width in (WIDE, NARROW)
    )
    return Plot(title, wide, narrow, marks)


def interval_plot(
    lines: Sequence[Line], axis: Axis, *, prefix: str, title: str, description: str, marks: tuple[tuple[str, str], ...]
) -> Plot:
    """Return the figure of `lines` over `axis`; see `plot`."""
    return plot(
        lambda width: intervals(lines, axis, width), prefix=prefix, title=title, description=description, marks=marks
    )


def round_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Return at most five ticks at round numbers, none of them at the very ends."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    margin = 0.03 * (high - low)
    numbers = range(math.ceil((low + margin) / step), math.floor((high - margin) / step) + 1)
    return tuple((number * step, f"{number * step:g}") for number in numbers)


def intervals(lines: Sequence[Line], axis: Axis, width: int) -> Drawing:
    """Draw each line's values: a mark, a band for the interval, a whisker for the worst case, the limit upright."""
    above = width == NARROW  # labels stand above their line
    left, right = (8, width - 10) if above else (300, width - 24)
    top = _TOP if axis.reference else 0
    heights = [(_LABEL if above else 0) + max(1, len(line.points)) * _LANE + _GAP for line in lines]
    groups = [list(group) for _, group in groupby(lines, key=lambda line: line.group)]
    bottom = top + sum(heights) + len(groups) * _HEADER + 6
    drawing = Drawing(width, bottom - 6 + _AXIS + (_UNIT if axis.unit else 0))

    def x(value: float) -> float:
        return left + (right - left) * (value - axis.low) / (axis.high - axis.low)

    _frame(drawing, axis, x, (left, right), (max(6, top), bottom))
    y = float(top)
    for group in groups:
        _header(drawing, group, x, (left, right), y + _HEADER / 2 + 2, above)
        y += _HEADER
        for line in group:
            color, label = MUTED if line.faint else INK, plain(line.label, 44)
            height = max(1, len(line.points)) * _LANE
            if above:
                drawing.text(left, y + _LABEL / 2, label, color)
                y += _LABEL
            else:
                drawing.text(left - 14, y + height / 2, label, color, size=12, anchor="end")
            if line.limit is not None:
                drawing.line([(x(line.limit), y - 1), (x(line.limit), y + height + _GAP - 4)], LIMIT, 2)
            for lane, point in enumerate(line.points):
                _point(drawing, point, x, y + _LANE * (lane + 0.5), line.faint)
            y += height + _GAP
    return drawing


def _frame(
    drawing: Drawing,
    axis: Axis,
    x: Callable[[float], float],
    across: tuple[float, float],
    down: tuple[float, float],
) -> None:
    (left, right), (top, bottom) = across, down
    for tick, text in axis.ticks:
        drawing.line([(x(tick), top), (x(tick), bottom)], GRID)
        narrow = left < 30  # no room beside the axis
        anchor = "start" if narrow and tick == axis.low else "end" if narrow and tick == axis.high else "middle"
        drawing.text(x(tick), bottom + 14, text, MUTED, anchor=anchor)
    drawing.line([(left, bottom), (right, bottom)], MUTED)
    if axis.unit:
        drawing.text((left + right) / 2, bottom + 31, axis.unit, MUTED, anchor="middle")
    if axis.reference:
        value, text = axis.reference
        share = (value - axis.low) / (axis.high - axis.low)
        drawing.line([(x(value), top), (x(value), bottom)], INK, 1.2, dash="5 3.5")
        drawing.text(
            x(value), top / 2, text, INK, anchor="end" if share > 0.8 else "start" if share < 0.2 else "middle"
        )


def _header(
    drawing: Drawing,
    group: Sequence[Line],
    x: Callable[[float], float],
    across: tuple[float, float],
    y: float,
    above: bool,
) -> None:
    left, right = across
    name = plain(group[0].group, 40)
    drawing.text(left if above else left - 14, y, name, INK, size=12, anchor="start" if above else "end", bold=True)
    limits = sorted({line.limit for line in group if line.limit is not None})
    if limits:
        text = "limit " + ", ".join(map(limit_text, limits))
        drawing.text(right if above else x(min(limits[0], 0.85)), y, text, LIMIT, anchor="end" if above else "start")


def _point(drawing: Drawing, point: Point, x: Callable[[float], float], y: float, faint: bool) -> None:
    color = MUTED if faint else SERIES
    if point.value is None:
        _whisker(drawing, x(point.low), x(point.high), y, color)
        drawing.text((x(point.low) + x(point.high)) / 2, y - 5, "nothing assessed", MUTED, size=10, anchor="middle")
        return
    drawing.line([(x(point.low), y), (x(point.high), y)], color, 4, opacity=0.45)
    if point.worst is not None:
        _whisker(drawing, x(point.value), x(point.worst), y, color)
    drawing.mark(x(point.value), y, point.shape, color, hollow=faint)


def _whisker(drawing: Drawing, start: float, end: float, y: float, color: str) -> None:
    drawing.line([(start, y), (end, y)], color, 1.2, dash="2 2")
    drawing.line([(end, y - 5), (end, y + 5)], color, 1.5)


def parts(lines: Sequence[Line], size: int = MAX_LINES) -> Iterator[Sequence[Line]]:
    """Yield the lines in as many parts as there are figures."""
    for start in range(0, len(lines), size):
        yield lines[start : start + size]
