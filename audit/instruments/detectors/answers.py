"""Check a detector's answer: only a whole and possible one counts as measured, anything else is an error that says why."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TypeGuard

from audit.records import LabelScore, Measurement

_ROUNDING = 1e-6  # a sum of probabilities may pass 1 by this much


def measurements(answer: object, count: int, labels: Sequence[str]) -> list[Measurement]:
    """Return what a detector with these labels says of `count` pictures, each answer checked as `measurement` does.

    Raises `ValueError` when it does not answer for each picture.
    """
    if not isinstance(answer, list | tuple):
        raise ValueError(f"the detector answers with {_named(answer)} instead of a list of measurements")
    if len(answer) != count:
        raise ValueError(f"the detector gives {len(answer)} measurements for {count} pictures")
    return [_checked(one, labels) for one in answer]


def measurement(scores: object, labels: Sequence[str]) -> Measurement:
    """Return the scores of one picture as measured, or an error instead of them.

    Each score must be a number in 0..1 of one of the detector's labels, and its box, if any, four finite numbers.
    """
    if not isinstance(scores, list | tuple):
        return _not_measured(f"the detector answers with {_named(scores)} instead of scores")
    checked = []
    for entry in scores:
        problem = _problem(entry, labels)
        if problem is not None:
            return _not_measured(problem)
        box = None if entry.box is None else tuple(float(side) for side in entry.box)
        checked.append(LabelScore(entry.label, min(max(float(entry.score), 0.0), 1.0), box))  # type: ignore[arg-type]
    return Measurement(tuple(checked))


def _checked(found: object, labels: Sequence[str]) -> Measurement:
    if not isinstance(found, Measurement):
        return _not_measured(f"the detector answers with {_named(found)} instead of a measurement")
    if found.scores is not None:
        return measurement(found.scores, labels)
    return Measurement(None, one_line(str(found.error)) or "not measured")


def _problem(entry: object, labels: Sequence[str]) -> str | None:
    if not isinstance(entry, LabelScore):
        return f"the detector answers with {_named(entry)} instead of a score"
    if not isinstance(entry.label, str):
        return f"a label is {_named(entry.label)} instead of a text"
    if entry.label not in labels:
        return f"the detector reports a label that it does not have: {entry.label[:80]!r}"
    if not _number(entry.score):
        return f"the score of {entry.label!r} is {_shown(entry.score)}, which is no number"
    if entry.score != entry.score:
        return f"the score of {entry.label!r} is nan"
    if not -_ROUNDING <= entry.score <= 1 + _ROUNDING:
        return f"the score of {entry.label!r} is {_shown(entry.score)}, outside 0..1"
    box = entry.box
    if box is not None and not (
        isinstance(box, list | tuple) and len(box) == 4 and all(_number(side) and _finite(side) for side in box)
    ):
        return f"the box of {entry.label!r} is {_shown(box)}, and four finite numbers are needed"
    return None


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _not_measured(why: str) -> Measurement:
    return Measurement(None, one_line(why))


def _named(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 40 else _named(value)


def one_line(text: str) -> str:
    """Return a message as one line that can be stored, cut after 500 characters."""
    return " ".join(text.split())[:500].encode("utf-8", "replace").decode("utf-8")
