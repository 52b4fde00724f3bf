"""Progress of a run: to the terminal or the log through a reporter, and to Prefect as a progress artifact."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from audit.progress import Listener, Pace
from audit.progress.lines import Lines, StageState, duration
from audit.progress.steps import listening

ARTIFACT_SECONDS = 5.0  # an artifact update is a request; more often shows nobody anything
LINE_SECONDS = 60.0  # between two lines of a stage in a log
TRAINING_SECONDS = 30.0  # a training that has said nothing for so long says how far it is


class LogReporter(Lines):
    """A reporter that writes to the run's Prefect log, for workers: a line a minute while a stage lasts."""

    def __init__(self) -> None:
        super().__init__(lambda text: get_run_logger().info("%s", text), LINE_SECONDS)

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


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Let the reporter and a progress artifact show the long steps inside the block, which is the body of a task."""
    with listening(WithArtifacts(_reporter)):
        yield


class TrainingProgress:
    """Progress of the training of one erased model, as lines below the stage's own progress: its bar counts units."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._said = 0.0
        self._pace = Pace(0)

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Say where the training begins or goes on."""
        self._total, self._pace = total, Pace(done)
        self.note(f"{stage}: {done}/{total} iterations" + (" were done before; going on" if done else ""))

    def update(self, stage: str, done: int) -> None:
        """Say how far it is when the last line is old."""
        self._pace.mark(done)
        if time.monotonic() - self._said >= TRAINING_SECONDS:
            left = None if self._total is None else self._pace.seconds_left(self._total)
            self.note(f"{stage}: {done}/{self._total} iterations" + (f", {duration(left)} left" if left else ""))

    def end(self, stage: str) -> None:
        """Do nothing: the last loss has been said."""

    def note(self, text: str) -> None:
        """Show one line, such as the loss."""
        self._said = time.monotonic()
        loss_reporter().note(text)


class WithArtifacts:
    """A listener that passes everything on to a reporter and keeps each stage whose size is known as a progress artifact."""

    def __init__(self, reporter: Listener, run_id: str | None = None) -> None:
        """Name `run_id` in the artifacts' descriptions."""
        self._reporter, self._of = reporter, f" of run {run_id}" if run_id else ""
        self._stages: dict[str, StageState] = {}
        self._artifacts: dict[str, UUID] = {}

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Begin an artifact, but for a stage that has nothing to do."""
        self._reporter.begin(stage, total, done, counted)
        if stage in self._stages:
            self._stages[stage].total = total
        elif total is not None and total > done:
            self._stages[stage] = StageState(total, done, f"{counted or 'units'}{self._of}")
            self._tell(stage)

    def update(self, stage: str, done: int) -> None:
        """Renew an artifact that is old."""
        self._reporter.update(stage, done)
        if (state := self._stages.get(stage)) is not None:
            state.move(done)
            if time.monotonic() - state.told >= ARTIFACT_SECONDS:
                self._tell(stage)

    def end(self, stage: str) -> None:
        """Leave the artifact as the stage ended."""
        if stage in self._stages:
            self._tell(stage)
            del self._stages[stage]
            self._artifacts.pop(stage, None)
        self._reporter.end(stage)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._reporter.note(text)

    def _tell(self, stage: str) -> None:
        state = self._stages[stage]
        percent = 100.0 * min(state.done, state.total or 0) / max(state.total or 0, 1)
        description = f"{stage}: {state.outlook()}"
        try:
            if stage in self._artifacts:
                update_progress_artifact(self._artifacts[stage], percent, description=description)
            else:
                key = f"audit-{stage.lower().replace(' ', '-')}"
                artifact = create_progress_artifact(percent, key=key, description=description)
                if isinstance(artifact, UUID):
                    self._artifacts[stage] = artifact
        except Exception as error:  # a picture of the progress is not worth a run
            get_run_logger().warning("the progress artifact was not stored: %s", error)
        state.told = time.monotonic()


class StageProgress:
    """Progress of one stage of units, shown by the reporter and kept as an artifact."""

    def __init__(self, run_id: str, stage: str, total: int, done: int) -> None:
        self.stage = stage
        self._listener = WithArtifacts(_reporter, run_id)
        self._listener.begin(stage, total, done)

    def show(self, done: int) -> None:
        """Show that `done` units need nothing more from this process."""
        self._listener.update(self.stage, done)

    def end(self) -> None:
        """Show the final state."""
        self._listener.end(self.stage)
