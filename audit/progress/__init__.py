"""Progress, notes, warnings and checkpoints of long work, which can continue after an interruption."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from audit.files import partial, reason, write_atomically

T = TypeVar("T")


class _Shown(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextlib.contextmanager
def warnings_to(show: Callable[[str], None]) -> Iterator[None]:
    """Open a block whose warnings go to `show`, one line each, and to no other handler."""
    log, handler = logging.getLogger("audit"), _Shown(show)
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


class Pace:
    """The speed of a stage, from what was done in the last minutes: units of one stage take about the same time."""

    WINDOW = 300.0  # seconds
    RESOLUTION = 1.0  # seconds between two marks that are kept: their number stays bounded however quick the parts are

    def __init__(self, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with `done` parts that were done before."""
        self._clock = clock
        self._marks: collections.deque[tuple[float, int]] = collections.deque([(clock(), done)])

    def mark(self, done: int) -> None:
        """Note that `done` parts are done now."""
        now = self._clock()
        if len(self._marks) == 1 and now - self._marks[0][0] > self.WINDOW:
            self._marks[0] = now, done  # a stage that waited for others begins with its first part
            return
        while len(self._marks) > 1 and self._marks[1][0] < now - self.WINDOW:
            self._marks.popleft()
        if len(self._marks) > 1 and now - self._marks[-2][0] < self.RESOLUTION:
            self._marks.pop()
        self._marks.append((now, done))

    @property
    def rate(self) -> float | None:
        """Return parts a second; None while nothing was done."""
        (began, first), (now, done) = self._marks[0], self._marks[-1]
        return (done - first) / (now - began) if done > first and now > began else None

    def seconds_left(self, total: int) -> float | None:
        """Return the time that the rest takes at this speed; None while nothing was done."""
        rate, (_, done) = self.rate, self._marks[-1]
        return None if rate is None else (total - done) / rate


class Listener(Protocol):
    """An observer that shows the progress of work, on a terminal or in a log.

    `done` and `total` count the parts of the stage: units of a run, iterations of a training, objects of a corpus.
    A stage may begin while another lasts, under a name of its own.
    """

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Begin a stage of which `done` parts were done before.

        `total` is None when it is not known; `counted` names the parts where they are not the listener's own. A stage that is
        begun again while it lasts has another total now.
        """

    def update(self, stage: str, done: int) -> None:
        """Show the progress of the stage."""

    def end(self, stage: str) -> None:
        """End the stage."""

    def note(self, text: str) -> None:
        """Show one line about something that went wrong or is worth knowing, such as the loss."""


class Silent:
    """A listener that shows nothing."""

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Do nothing."""

    def update(self, stage: str, done: int) -> None:
        """Do nothing."""

    def end(self, stage: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True)
class Session:
    """The settings of a training or a search that do not change its result.

    `folder` keeps checkpoints while training lasts, so that the same call continues after an interruption; without it
    nothing is kept. `checkpoint_seconds` is the time between two checkpoints.
    """

    folder: Path | None = None
    listener: Listener = dataclasses.field(default_factory=Silent)
    checkpoint_seconds: float = 60.0


class Checkpoint:
    """The checkpoint of a training or a search while it lasts: one file in the session's folder, or nothing without one."""

    def __init__(self, session: Session, name: str, what: str) -> None:
        """Name the file `name`; messages call the training or search `what`."""
        self.session, self.what = session, what
        self.path = session.folder / name if session.folder else None
        self._saved = time.monotonic()

    def restored(self, load: Callable[[Path], T]) -> T | None:
        """Return the result of `load` for an earlier process's file; None when there is none, or none of this training.

        `load` raises any exception for a file that is damaged or of another training, and changes nothing then.
        """
        if self.path is None:
            return None
        partial(self.path).unlink(missing_ok=True)  # a process that was killed while it wrote
        if not self.path.exists():
            return None
        try:
            return load(self.path)
        except Exception as error:  # whatever is wrong with the file, the work can begin again
            text = f"{self.path} cannot be continued: {reason(error)}; {self.what} begins anew"
            self.session.listener.note(text)
            return None

    def due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved >= self.session.checkpoint_seconds

    def save(self, write: Callable[[Path], object]) -> None:
        """Write the checkpoint with `write`, whole or not at all."""
        if self.path is not None:
            write_atomically(self.path, write)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint: the work is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
