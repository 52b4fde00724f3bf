"""The output of a verification: one line for each check."""

from __future__ import annotations

import dataclasses
import enum

from audit.errors import NotVerified


class Answer(enum.StrEnum):
    """How a check ended. What could not be checked is said, and does not count as wrong."""

    OK = "ok"
    WRONG = "NOT verified"
    UNCHECKED = "not checked"


@dataclasses.dataclass(frozen=True)
class Line:
    """One check: its number in the order of `verify.CHECKS`, its answer, and why."""

    number: int
    answer: Answer
    detail: str
    where: str | None = None  # the file that is wrong
    next_step: str | None = None


def ok(number: int, detail: str) -> Line:
    """Return a line of a check that holds."""
    return Line(number, Answer.OK, detail)


def wrong(number: int, detail: str, where: str | None = None) -> Line:
    """Return a line of a check that does not hold."""
    return Line(number, Answer.WRONG, detail, where)


def unchecked(number: int, detail: str) -> Line:
    """Return a line about what was not checked."""
    return Line(number, Answer.UNCHECKED, detail)


def of_error(number: int, error: NotVerified) -> Line:
    """Return the line of a check that raised."""
    return Line(number, Answer.WRONG, error.what, error.where, error.next_step)
