"""The period of a monthly report, and the times in it at which runs are expected."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Sequence

from cronsim import CronSim, CronSimError

from audit.errors import SpecError

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_FIRST_YEAR = 2000
_MOST_TIMES = 50_000  # a minute's schedule over a month is below it


@dataclasses.dataclass(frozen=True)
class Month:
    """A calendar month in UTC."""

    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"

    @property
    def start(self) -> dt.datetime:
        """Return its first moment."""
        return dt.datetime(self.year, self.number, 1, tzinfo=dt.UTC)

    @property
    def end(self) -> dt.datetime:
        """Return the first moment after it."""
        return dt.datetime(self.year + self.number // 12, self.number % 12 + 1, 1, tzinfo=dt.UTC)

    @property
    def before(self) -> Month:
        """Return the month before it."""
        return Month(self.year - (self.number == 1), (self.number - 2) % 12 + 1)

    def until(self, now: dt.datetime) -> dt.datetime:
        """Return the end of what can be said of the month at `now`: its own, or `now` while it lasts."""
        return min(self.end, now)


def parse_month(text: str, now: dt.datetime) -> Month:
    """Return the month that text such as `2026-10` names. Raises `SpecError` for other text and for a month to come."""
    match = _MONTH.fullmatch(text.strip()) if text.isascii() else None
    if match is None or int(match[1]) < _FIRST_YEAR:
        raise SpecError(
            f"{text[:40]!r} is no month", where="--month", next_step="write year and month, such as 2026-10"
        )
    month = Month(int(match[1]), int(match[2]))
    if month.start > now:
        raise SpecError(
            f"{month} has not begun", where="--month", next_step="name a month that has, and check this machine's clock"
        )
    return month


def expected_times(cron: str, since: dt.datetime, until: dt.datetime) -> tuple[dt.datetime, ...]:
    """Return the times of a cron expression in [since, until), in UTC. Raises `SpecError` for an expression that is none."""
    try:
        times = CronSim(cron, since - dt.timedelta(seconds=1))
    except CronSimError as error:
        raise SpecError(
            f"{cron[:80]!r} is no schedule: {error}",
            where="--expected",
            next_step='write it as cron does, such as "0 2 * * *" for 02:00 UTC each day',
        ) from None
    expected: list[dt.datetime] = []
    for time in times:
        if time >= until or len(expected) >= _MOST_TIMES:
            break
        expected.append(time)
    return tuple(expected)


def run_of_each(
    expected: Sequence[dt.datetime], started: Sequence[dt.datetime], until: dt.datetime
) -> tuple[int | None, ...]:
    """Return for each expected time the index of the first run that started then or later, before the next one; None for none.

    Both sequences ascend; the last time waits until `until`.
    """
    answers: list[int | None] = []
    for time, following in zip(expected, (*expected[1:], until), strict=True):
        answers.append(next((n for n, moment in enumerate(started) if time <= moment < following), None))
    return tuple(answers)
