"""Draw verdicts and rates over time; the line of rates is broken where they cannot be compared."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from itertools import pairwise

from audit.report import svg
from audit.report.chart import NARROW, SHARES, Plot, plot
from audit.report.svg import Drawing
from audit.report.words import percent, plain

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT, _ROW = 52, 16, 20, 40, 300, 30  # CSS pixels
LOOKS = {"PASS": (0, "var(--pass)"), "FAIL": (1, "var(--fail)"), "INCONCLUSIVE": (2, "var(--open)")}
UNDECIDED = (3, svg.MUTED)
MARKS = (
    *((svg.SYMBOLS[shape], status) for status, (shape, _) in LOOKS.items()),
    (svg.HOLLOW[UNDECIDED[0]], "not decided"),
)


@dataclasses.dataclass(frozen=True)
class Dot:
    """One value with its interval at a moment. `segment` changes where the line is broken; `status` is a verdict or None."""

    at: dt.datetime
    value: float | None
    low: float
    high: float
    segment: int = 0
    status: str | None = None
    limit: float | None = None
    mark: str = ""  # of the break before it


@dataclasses.dataclass(frozen=True)
class Lane:
    """The verdicts of one system."""

    label: str
    dots: tuple[tuple[dt.datetime, str | None], ...]


def moment(created_at: str) -> dt.datetime:
    """Return an ISO 8601 moment in UTC; the year 1970 for text that is none."""
    try:
        time = dt.datetime.fromisoformat(created_at)
    except ValueError:
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def trend_plot(dots: Sequence[Dot], *, prefix: str, title: str, description: str) -> Plot:
    """Return the figure of rates over time: a band for the interval, a line, a mark for each verdict, the limit dashed."""
    marks = MARKS if any(dot.status for dot in dots) else ()
    return plot(lambda width: _trend(dots, width), prefix=prefix, title=title, description=description, marks=marks)


def verdict_plot(lanes: Sequence[Lane], *, prefix: str, title: str, description: str) -> Plot:
    """Return the figure of verdicts over time, one line for each system."""
    return plot(lambda width: _verdicts(lanes, width), prefix=prefix, title=title, description=description, marks=MARKS)


def _scale(moments: Sequence[dt.datetime], left: float, right: float) -> Callable[[dt.datetime], float]:
    start, end = min(moments), max(moments)
    length = (end - start).total_seconds()

    def x(at: dt.datetime) -> float:
        share = (at - start).total_seconds() / length if length else 0.5
        return left + 8 + (right - left - 16) * share

    return x


def _dates(
    drawing: Drawing, moments: Sequence[dt.datetime], x: Callable[[dt.datetime], float], top: float, bottom: float
) -> None:
    """Draw the axis: the first and last day, and as many between as there is room for."""
    start, end = min(moments), max(moments)
    room = max(1, int((x(end) - x(start)) // 90))
    days = max((end - start).days, 1)
    step = max(1, -(-days // room))
    ticks = [start + dt.timedelta(days=step * n) for n in range(days // step + 1)] if end > start else [start]
    for tick in ticks:
        at = x(min(tick, end))
        drawing.line([(at, top), (at, bottom)], svg.GRID)
        drawing.text(at, bottom + 14, f"{tick:%Y-%m-%d}", svg.MUTED, anchor="end" if at > x(end) - 30 else "middle")


def _trend(dots: Sequence[Dot], width: int) -> Drawing:
    left = 40 if width == NARROW else _LEFT
    drawing, right, bottom = Drawing(width, _HEIGHT), width - _RIGHT, _HEIGHT - _BOTTOM
    moments = [dot.at for dot in dots]
    x = _scale(moments, left, right)

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * share

    _dates(drawing, moments, x, _TOP, bottom)
    for share, text in SHARES:
        drawing.line([(left, y(share)), (right, y(share))], svg.GRID)
        drawing.text(left - 6, y(share), text, svg.MUTED, anchor="end")
    for segment in dict.fromkeys(dot.segment for dot in dots):
        _segment(drawing, [dot for dot in dots if dot.segment == segment], x, y)
    for before, dot in pairwise(dots):
        if dot.mark:
            at = (x(before.at) + x(dot.at)) / 2
            drawing.line([(at, _TOP), (at, bottom)], svg.INK, 1.2, dash="5 3.5")
            drawing.text(at, _TOP / 2, dot.mark, svg.INK, anchor="middle", bold=True)
    for dot in dots:
        shape, color = LOOKS.get(dot.status or "", UNDECIDED)
        if dot.value is not None:
            drawing.mark(x(dot.at), y(dot.value), shape, color, hollow=dot.status not in LOOKS)
    return drawing


def _segment(
    drawing: Drawing, dots: Sequence[Dot], x: Callable[[dt.datetime], float], y: Callable[[float], float]
) -> None:
    measured = [dot for dot in dots if dot.value is not None]
    if len(measured) > 1:
        outline = [(x(dot.at), y(dot.high)) for dot in measured] + [(x(d.at), y(d.low)) for d in reversed(measured)]
        drawing.area(outline, svg.SERIES, opacity=0.18)
    for dot in measured:
        drawing.line([(x(dot.at), y(dot.low)), (x(dot.at), y(dot.high))], svg.SERIES, 2, opacity=0.45)
    drawing.line([(x(dot.at), y(dot.value)) for dot in measured if dot.value is not None], svg.SERIES, 1.6)
    limited = [dot for dot in dots if dot.limit is not None]
    if limited:
        ends = (x(limited[0].at) - 6, x(limited[-1].at) + 6)
        drawing.line([(end, y(limited[0].limit or 0.0)) for end in ends], svg.LIMIT, 1.6, dash="7 4")


def _verdicts(lanes: Sequence[Lane], width: int) -> Drawing:
    narrow = width == NARROW
    left, right, row = (8, width - 10, _ROW + 14) if narrow else (220, width - _RIGHT, _ROW)
    moments = [at for lane in lanes for at, _ in lane.dots]
    bottom = 10 + row * len(lanes)
    drawing = Drawing(width, bottom + _BOTTOM - 10)
    x = _scale(moments, left, right)
    _dates(drawing, moments, x, 6, bottom)
    for number, lane in enumerate(lanes):
        y = 10 + row * number + (row * 0.66 if narrow else row / 2)
        label = plain(lane.label, 30 if not narrow else 40)
        place = (left, y - 20, "start") if narrow else (left - 14, y, "end")
        drawing.text(place[0], place[1], label, svg.INK, size=12, anchor=place[2])
        drawing.line([(left, y), (right, y)], svg.GRID)
        for at, status in lane.dots:
            shape, color = LOOKS.get(status or "", UNDECIDED)
            drawing.mark(x(at), y, shape, color, hollow=status not in LOOKS)
    return drawing


def in_words(dots: Sequence[Dot]) -> str:
    """Return the values of a figure for those who do not see it."""
    return "; ".join(f"{dot.at:%Y-%m-%d} {percent(dot.value)} {dot.status or 'not decided'}" for dot in dots)
