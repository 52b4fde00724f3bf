"""CRR against the strength of a perturbation, as inline SVG: a mark and an interval per point, a line per class."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audit.report import svg
from audit.report.plots import MARK_SYMBOLS, MARKS, NARROW, STYLE, WIDE, Plot
from audit.report.view import Index, defence_name
from audit.report.words import percent, plain
from audit.verdict.results import CrrRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = len(MARKS)  # of one figure
_HOLLOW = ("○", "□", "◇", "△", "▽", "✚")
_HEIGHT, _LEFT, _BOTTOM = 300, 56, 46  # CSS pixels
_FALLING = ("image-jpeg", "image-resize")  # the smaller the stronger


@dataclasses.dataclass(frozen=True)
class _Line:
    """One class under one defence: the points from the undisturbed row to the strongest perturbation."""

    label: str
    faint: bool  # a control: another class, or the un-erased model
    points: tuple[tuple[int, CrrRow], ...]  # position on the axis, row


def curves(index: Index) -> tuple[Plot, ...]:
    """The figures of a run by one judge: one per concept, scenario and kind of perturbation."""
    rows = index.perturbed()
    judge = index.policy.judges[0] if index.policy else next((row.detector for row in rows), "")
    rows = [row for row in rows if row.detector == judge]
    figures: list[Plot] = []
    for key in dict.fromkeys((row.concept, row.scenario, str(row.perturbation)) for row in rows):
        chosen = [row for row in rows if (row.concept, row.scenario, row.perturbation) == key]
        strengths = sorted({row.strength or 0.0 for row in chosen}, reverse=key[2] in _FALLING)
        lines = _lines(index, chosen, strengths)
        for start in range(0, len(lines), MAX_LINES):
            figures.append(_plot(key, judge, lines[start : start + MAX_LINES], strengths, len(figures)))
    return tuple(figures)


def _lines(index: Index, rows: Sequence[CrrRow], strengths: Sequence[float]) -> list[_Line]:
    lines = []
    for subject, defence in dict.fromkeys((row.subject, row.defence) for row in rows):
        same = [row for row in rows if (row.subject, row.defence) == (subject, defence)]
        other = subject != same[0].concept
        points = [(strengths.index(row.strength or 0.0) + 1, row) for row in same]
        default = index.undisturbed(same[0])
        points += [(0, default)] if default else []
        label = defence_name(same[0]) + (f", {plain(subject)}" if other else "")
        lines.append(_Line(label, other or defence == "none", tuple(sorted(points, key=lambda point: point[0]))))
    return sorted(lines, key=lambda line: line.faint)


def _plot(
    key: tuple[str, str, str], judge: str, lines: Sequence[_Line], strengths: Sequence[float], number: int
) -> Plot:
    concept, scenario, kind = map(plain, key)
    title = f"CRR of {concept} by {plain(judge)} against the strength of {kind}, {scenario}"
    described = "; ".join(f"{line.label}: " + ", ".join(percent(row.rate) for _, row in line.points) for line in lines)
    ticks = ["none", *(f"{strength:g}" for strength in strengths)]
    wide, narrow = (
        svg.inline(
            _draw(lines, ticks, kind, width), prefix=f"curve{number}-{width}-", title=title, description=described
        )
        for width in (WIDE, NARROW)
    )
    marks = tuple(((_HOLLOW if line.faint else MARK_SYMBOLS)[i], line.label) for i, line in enumerate(lines))
    return Plot(title, wide, narrow, marks)


def _draw(lines: Sequence[_Line], ticks: Sequence[str], kind: str, width: int) -> bytes:
    """SVG bytes in which one unit is one CSS pixel."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the reader's browser has its own fonts
        figure = Figure(figsize=(width / 72, _HEIGHT / 72), dpi=72)
        FigureCanvasSVG(figure)
        box = (_LEFT / width, _BOTTOM / _HEIGHT, (width - _LEFT - 16) / width, (_HEIGHT - _BOTTOM - 12) / _HEIGHT)
        axes = figure.add_axes(box)
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        axes.set_ylim(0, 1)
        axes.axis("off")
        _frame(axes, ticks, kind)
        for i, line in enumerate(lines):
            _line(axes, line, i, (i - (len(lines) - 1) / 2) * 0.07)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _frame(axes: Axes, ticks: Sequence[str], kind: str) -> None:
    style: dict[str, Any] = {"color": svg.MUTED, "fontsize": 11, "annotation_clip": False}
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        axes.plot([-0.4, len(ticks) - 0.6], [share, share], color=svg.GRID, linewidth=1, zorder=0)
        at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(f"{100 * share:.0f} %", (0, share), xytext=(-6, 0), ha="right", va="center", **at, **style)
    below: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
    for place, tick in enumerate(ticks):
        axes.annotate(tick, (place, 0), xytext=(0, -12), va="center", **below, **style)
    axes.annotate(plain(kind, 40), ((len(ticks) - 1) / 2, 0), xytext=(0, -32), va="center", **below, **style)


def _line(axes: Axes, line: _Line, number: int, shift: float) -> None:
    color = svg.MUTED if line.faint else svg.SERIES
    measured = [(place + shift, row.rate, row) for place, row in line.points if row.rate is not None]
    for x, _, row in measured:
        axes.plot([x, x], [row.ci_low, row.ci_high], color=color, linewidth=3, alpha=0.45, solid_capstyle="butt")
    axes.plot(
        [x for x, _, _ in measured],
        [rate for _, rate, _ in measured],
        color=color, linewidth=1.2, linestyle=(0, (4, 3)) if line.faint else "-", marker=MARKS[number], markersize=7,
        markerfacecolor=svg.PAPER if line.faint else color, markeredgecolor=color, markeredgewidth=1.5, clip_on=False,
        zorder=4,
    )  # fmt: skip
