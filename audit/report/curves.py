"""Draw CRR against the strength of a perturbation or training steps: a mark and an interval per point, a line per class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.records import TRAINING_STEPS, Control
from audit.report import svg
from audit.report.chart import SHARES, Plot, plot
from audit.report.svg import Drawing
from audit.report.view import Index, defence_name
from audit.report.words import percent, plain
from audit.verdict.results import CrrRow

MAX_LINES = len(svg.SHAPES)  # of one figure
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 56, 16, 12, 46  # CSS pixels
_FALLING = ("image-jpeg", "image-resize")  # the smaller the stronger


@dataclasses.dataclass(frozen=True)
class _Curve:
    """One class under one defence: the points from the undisturbed row to the strongest perturbation, or by training steps."""

    label: str
    faint: bool  # a control: another class, or the un-erased model
    points: tuple[tuple[int, CrrRow], ...]  # position on the axis, row


def curves(index: Index) -> tuple[Plot, ...]:
    """Return the figures of a run by one judge: one per concept, scenario and kind of perturbation."""
    return _figures(index, index.perturbed(), "curve")


def relearning_curves(index: Index) -> tuple[Plot, ...]:
    """Return the figures of relearning by one judge: CRR after training steps, one per concept and scenario."""
    return _figures(index, [row for row in index.relearned() if row.control == Control.CHECKPOINT], "relearning")


def _figures(index: Index, rows: Sequence[CrrRow], prefix: str) -> tuple[Plot, ...]:
    judge = index.policy.judges[0] if index.policy else next((row.detector for row in rows), "")
    rows = [row for row in rows if row.detector == judge]
    figures: list[Plot] = []
    for key in dict.fromkeys((row.concept, row.scenario, str(row.perturbation)) for row in rows):
        chosen = [row for row in rows if (row.concept, row.scenario, row.perturbation) == key]
        placed = [row for row in (*chosen, *_defaults(index, chosen)) if row.strength is not None]
        strengths = sorted({row.strength or 0.0 for row in placed}, reverse=key[2] in _FALLING)
        # The default row stands before the weakest disturbance, unless it has a strength of its own.
        ticks = [*(["none"] if len(placed) == len(chosen) else []), *(f"{strength:g}" for strength in strengths)]
        lines = _curves(index, chosen, ticks)
        for start in range(0, len(lines), MAX_LINES):
            figures.append(_plot(key, judge, lines[start : start + MAX_LINES], ticks, f"{prefix}{len(figures)}"))
    return tuple(figures)


def _defaults(index: Index, rows: Sequence[CrrRow]) -> list[CrrRow]:
    return [default for row in rows if (default := index.undisturbed(row)) is not None]


def _curves(index: Index, rows: Sequence[CrrRow], ticks: Sequence[str]) -> list[_Curve]:
    lines = []
    for subject, defence in dict.fromkeys((row.subject, row.defence) for row in rows):
        same = [row for row in rows if (row.subject, row.defence) == (subject, defence)]
        other = subject != same[0].concept
        whole = [*same, *_defaults(index, same[:1])]
        points = [("none" if row.strength is None else f"{row.strength:g}", row) for row in whole]
        label = defence_name(same[0]) + (f", {plain(subject)}" if other else "")
        placed = sorted(((ticks.index(tick), row) for tick, row in points), key=lambda point: point[0])
        lines.append(_Curve(label, other or defence == "none", tuple(placed)))
    return sorted(lines, key=lambda line: line.faint)


def _plot(key: tuple[str, str, str], judge: str, lines: Sequence[_Curve], ticks: Sequence[str], prefix: str) -> Plot:
    concept, scenario, kind = map(plain, key)
    axis = "after training steps" if kind == TRAINING_STEPS else f"against the strength of {kind}"
    return plot(
        lambda width: _draw(lines, ticks, kind, width),
        prefix=prefix,
        title=f"CRR of {concept} by {plain(judge)} {axis}, {scenario}",
        description="; ".join(
            f"{line.label}: " + ", ".join(percent(row.rate) for _, row in line.points) for line in lines
        ),
        marks=tuple(((svg.HOLLOW if line.faint else svg.SYMBOLS)[i], line.label) for i, line in enumerate(lines)),
    )


def _draw(lines: Sequence[_Curve], ticks: Sequence[str], kind: str, width: int) -> Drawing:
    drawing, right, bottom = Drawing(width, _HEIGHT), width - _RIGHT, _HEIGHT - _BOTTOM
    step = (right - _LEFT) / (len(ticks) - 0.2)

    def x(place: float) -> float:
        return _LEFT + step * (place + 0.4)

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * share

    for share, text in SHARES:
        drawing.line([(_LEFT, y(share)), (right, y(share))], svg.GRID)
        drawing.text(_LEFT - 6, y(share), text, svg.MUTED, anchor="end")
    for place, tick in enumerate(ticks):
        drawing.text(x(place), bottom + 12, tick, svg.MUTED, anchor="middle")
    drawing.text((_LEFT + right) / 2, bottom + 32, plain(kind, 40), svg.MUTED, anchor="middle")
    for number, line in enumerate(lines):
        color, shift = svg.MUTED if line.faint else svg.SERIES, (number - (len(lines) - 1) / 2) * 0.07
        measured = [(x(place + shift), row.rate, row) for place, row in line.points if row.rate is not None]
        for at, _, row in measured:
            drawing.line([(at, y(row.ci_low)), (at, y(row.ci_high))], color, 3, opacity=0.45)
        dash = "5 3.5" if line.faint else "none"
        drawing.line([(at, y(rate)) for at, rate, _ in measured], color, 1.2, dash=dash)
        for at, rate, _ in measured:
            drawing.mark(at, y(rate), number, color, hollow=line.faint)
    return drawing
