"""Progress of a run: to the terminal or the log through a reporter, and to Prefect as a progress artifact."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from audit.progress import Listener, Pace

ARTIFACT_SECONDS = 5.0  # an artifact update is a request; more often shows nobody anything
LINE_SECONDS = 60.0  # between two lines of a stage in a log
TRAINING_SECONDS = 30.0  # a training that has said nothing for so long says how far it is


@dataclasses.dataclass
class _Logged:
    """One stage of a log."""

    total: int | None
    pace: Pace
    said: float  # when its last line was logged


class LogReporter:
    """A reporter that writes to the run's Prefect log, for workers: a line a minute while a stage lasts.

    Several stages may go on at once.
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Logged] = {}

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Log the size of the stage."""
        self._stages[stage] = _Logged(total, Pace(done), time.monotonic())
        get_run_logger().info("%s: %s of %s done", stage, done, "?" if total is None else total)

    def update(self, stage: str, done: int) -> None:
        """Log how far it is and the time left, when the last line is old."""
        logged = self._stages[stage]
        logged.pace.mark(done)
        if time.monotonic() - logged.said < LINE_SECONDS:
            return
        logged.said = time.monotonic()
        left = None if logged.total is None else logged.pace.seconds_left(logged.total)
        of = "?" if logged.total is None else logged.total
        rest = "" if not left else f", {left / 60:.0f} min left"
        get_run_logger().info("%s: %d of %s done%s", stage, done, of, rest)

    def end(self, stage: str) -> None:
        """Log the end of the stage."""
        get_run_logger().info("%s: ended", stage)

    def note(self, text: str) -> None:
        """Log a warning."""
        get_run_logger().warning(text)


class _LossLog(LogReporter):
    def note(self, text: str) -> None:
        """Log a line: a loss is no warning."""
        get_run_logger().info(text)


_reporter: Listener = LogReporter()


def reporter() -> Listener:
    """Return the reporter of this process."""
    return _reporter


def loss_reporter() -> Listener:
    """Return the reporter of this process for a training, whose lines are no warnings."""
    return _LossLog() if isinstance(_reporter, LogReporter) else _reporter


@contextlib.contextmanager
def reporting_to(new: Listener) -> Iterator[None]:
    """Report runs to `new` inside the block."""
    global _reporter
    before, _reporter = _reporter, new
    try:
        yield
    finally:
        _reporter = before


class TrainingProgress:
    """Progress of the training of one erased model, as lines below the stage's own progress: its bar counts units."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._said = 0.0

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Print where the training begins or continues."""
        self._total = total
        self.note(f"{stage}: {done}/{total} iterations" + (" were done before; going on" if done else ""))

    def update(self, stage: str, done: int) -> None:
        """Print how far the training is, when the last line is old."""
        if time.monotonic() - self._said >= TRAINING_SECONDS:
            self.note(f"{stage}: {done}/{self._total} iterations")

    def end(self, stage: str) -> None:
        """Do nothing: the last loss has been said."""

    def note(self, text: str) -> None:
        """Show one line, such as the loss."""
        self._said = time.monotonic()
        loss_reporter().note(text)


class StageProgress:
    """Progress of one stage of units, shown by the reporter and kept as an artifact."""

    def __init__(self, run_id: str, stage: str, total: int, done: int) -> None:
        self.stage, self.total, self.done = stage, total, done
        self._artifact: UUID | None = None
        self._told = time.monotonic()
        _reporter.begin(stage, total, done)
        if total > done:
            self._tell(f"{stage} units of run {run_id}")

    def show(self, done: int) -> None:
        """Show that `done` units need nothing more from this process."""
        self.done = done
        _reporter.update(self.stage, self.done)
        if time.monotonic() - self._told >= ARTIFACT_SECONDS:
            self._tell()

    def end(self) -> None:
        """Show the final state."""
        if self._artifact is not None:
            self._tell()
        _reporter.end(self.stage)

    def _tell(self, description: str | None = None) -> None:
        percent = 100.0 * min(self.done, self.total) / max(self.total, 1)
        self._told = time.monotonic()
        try:
            if self._artifact is None:
                artifact = create_progress_artifact(percent, key=f"audit-{self.stage}", description=description)
                self._artifact = artifact if isinstance(artifact, UUID) else None
            else:
                update_progress_artifact(self._artifact, percent)
        except Exception as error:  # a picture of the progress is not worth a run
            get_run_logger().warning("the progress artifact was not stored: %s", error)
