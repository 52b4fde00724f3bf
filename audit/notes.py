"""What `audit` warns of through logging, handed to whoever shows it to people."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator


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
