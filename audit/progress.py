"""How long work is heard: progress, remarks, and what `audit` warns of through logging."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol


class _Shown(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextlib.contextmanager
def warnings_to(show: Callable[[str], None]) -> Iterator[None]:
    """A block whose warnings `show` gets, one line each, and no other handler."""
    log, handler = logging.getLogger("audit"), _Shown(show)
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


class Listener(Protocol):
    """Shows how work goes, on a terminal or in a log.

    `done` and `total` count what the stage is made of: units of a run, iterations of a training, objects of a corpus.
    """

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Begin a stage, `done` of which was done before; `total` is None when it is not known yet."""

    def update(self, stage: str, done: int) -> None:
        """Show how far the stage is."""

    def end(self, stage: str) -> None:
        """End the stage."""

    def note(self, text: str) -> None:
        """Show one line about something that went wrong or is worth knowing, such as the loss."""


class Silent:
    """A listener that shows nothing."""

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Nothing."""

    def update(self, stage: str, done: int) -> None:
        """Nothing."""

    def end(self, stage: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclasses.dataclass(frozen=True)
class Session:
    """How a training or a search runs; nothing here changes what it makes.

    `folder` keeps checkpoints while training lasts, so that the same call continues after an interruption; without it
    nothing is kept. `checkpoint_seconds` is the time between two checkpoints.
    """

    folder: Path | None = None
    listener: Listener = dataclasses.field(default_factory=Silent)
    checkpoint_seconds: float = 60.0
