"""Draw CRR against a perturbation, training steps or stages of cycles: a mark and an interval per point, a line per class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.records import BENIGN_PROMPTS, STAGES, TRAINING_STEPS, Control
from audit.report import svg
from audit.report.chart import SHARES, Plot, plot
from audit.report.svg import Drawing
from audit.report.view import Index, defence_name
from audit.report.words import percent, plain
from audit.verdict.results import CrrRow

MAX_LINES = len(svg.SHAPES)  # of one figure
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 56, 16, 12, 46  # CSS pixels
_AXES = {
    TRAINING_STEPS: ("after training steps", "training steps"),
    STAGES: ("at each stage", "stage: odd ones edited, even ones erased"),
}
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


def cycle_curves(index: Index) -> tuple[Plot, ...]:
    """Return the figures of cycles by one judge: CRR at each stage, and the rate of the neighbours in figures of their own."""
    points = [row for row in index.cycles() if row.control == Control.CHECKPOINT]
    never = {row.subject for row in index.cycles() if row.control == Control.UNLEARNED}
    own = [row for row in points if row.subject == row.concept or row.subject in never]
    others = [row for row in points if row not in own and row.subject != BENIGN_PROMPTS]
    return (*_figures(index, own, "cycle"), *_figures(index, others, "neighbour", "Rate of the neighbours"))


def _figures(index: Index, rows: Sequence[CrrRow], prefix: str, what: str = "CRR") -> tuple[Plot, ...]:
    judge = index.policy.judges[0] if index.policy else next((row.detector for row in rows), "")
    rows = [row for row in rows if row.detector == judge]
    figures: list[Plot] = []
    for key in dict.fromkeys((row.concept, row.scenario, str(row.perturbation)) for row in rows):
        chosen = [row for row in rows if (row.concept, row.scenario, row.perturbation) == key]
        placed = [row for row in (*chosen, *_defaults(index, chosen)) if row.strength is not None]
        strengths = sorted({row.strength or 0.0 for row in placed}, reverse=key[2] in _FALLING)
        # The default row stands before the weakest disturbance, unless it has a strength of its own.
        unplaced = len(placed) == len(chosen) and key[2] != STAGES
        ticks = [*(["none"] if unplaced else []), *(f"{strength:g}" for strength in strengths)]
        lines = _curves(index, chosen, ticks)
        for start in range(0, len(lines), MAX_LINES):
            some, title = lines[start : start + MAX_LINES], f"{what} of {plain(key[0])}"
            figures.append(_plot(title, key, judge, some, ticks, f"{prefix}{len(figures)}"))
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
        beside = other and same[0].perturbation != STAGES
        lines.append(_Curve(label, beside or defence == "none", tuple(placed)))
    return sorted(lines, key=lambda line: line.faint)


def _plot(
    title: str, key: tuple[str, str, str], judge: str, lines: Sequence[_Curve], ticks: Sequence[str], prefix: str
) -> Plot:
    _, scenario, kind = map(plain, key)
    axis, _ = _AXES.get(kind, (f"against the strength of {kind}", kind))
    return plot(
        lambda width: _draw(lines, ticks, kind, width),
        prefix=prefix,
        title=f"{title} by {plain(judge)} {axis}, {scenario}",
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
    drawing.text(
        (_LEFT + right) / 2, bottom + 32, _AXES.get(kind, ("", plain(kind, 40)))[1], svg.MUTED, anchor="middle"
    )
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
