"""Progress as lines of text, with rate and time left."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from audit.progress import Pace


def duration(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def speed(rate: float) -> str:
    """Return parts a second as a person reads them."""
    for seconds, unit in ((1, "s"), (60, "min")):
        if rate * seconds >= 1:
            return f"{rate * seconds:,.1f}/{unit}"
    return f"{rate * 3600:.1f}/h"


@dataclasses.dataclass
class StageState:
    """A stage that begins now as a listener knows it: its parts, how they are called, and its speed."""

    total: int | None
    done: int
    counted: str

    def __post_init__(self) -> None:
        self.began_with, self.pace = self.done, Pace(self.done)
        self.began = self.told = time.monotonic()

    def move(self, done: int) -> None:
        """Note that `done` parts are done now."""
        self.done = done
        self.pace.mark(done)

    def state(self) -> str:
        """Return how far it is."""
        return f"{self.done} {self.counted}" if self.total is None else f"{self.done}/{self.total} {self.counted}"

    def outlook(self) -> str:
        """Return how far it is, how quickly it goes and the time left, as far as these are known."""
        rate, left = self.pace.rate, None if self.total is None else self.pace.seconds_left(self.total)
        known = (self.state(), speed(rate) if rate else "", f"{duration(left)} left" if left else "")
        return ", ".join(filter(None, known))


class Lines:
    """A listener that tells lines: one when a stage begins, then how far it is, its rate and the time left, one at its end.

    Lines of one stage come `seconds` apart, later at a twentieth of the time that it has taken: a day's has some hundred.
    """

    LONGEST = 300.0  # seconds between two lines

    def __init__(self, tell: Callable[[str], None], seconds: float, counted: str = "units") -> None:
        """Tell lines with `tell`; `counted` names the parts of stages that name none."""
        self._tell, self._seconds, self._counted = tell, seconds, counted
        self._stages: dict[str, StageState] = {}

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Tell what the stage has to do; one without parts tells nothing."""
        if stage in self._stages:
            self._stages[stage].total = total
            return
        named = counted or ("objects" if total is None else self._counted)
        self._stages[stage] = state = StageState(total, done, named)
        if total is None or total > done:
            self._tell(f"{stage}: {state.state()}")

    def update(self, stage: str, done: int) -> None:
        """Tell how far it is when the last line is old."""
        state, now = self._stages[stage], time.monotonic()
        state.move(done)
        if now - state.told >= min(max(self._seconds, (now - state.began) / 20), self.LONGEST):
            state.told = now
            self._tell(f"{stage}: {state.outlook()}")

    def end(self, stage: str) -> None:
        """Tell how the stage ended."""
        state = self._stages.pop(stage, None)
        if state is not None and state.done > state.began_with:
            self._tell(f"{stage}: {state.state()} in {duration(time.monotonic() - state.began)}")

    def note(self, text: str) -> None:
        """Tell it."""
        self._tell(text)
