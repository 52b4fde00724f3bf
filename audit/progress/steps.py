"""Long steps deep inside other work, told to whatever listens in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from audit.progress import Listener, Silent

T = TypeVar("T")
_listener: Listener = Silent()


def listener() -> Listener:
    """Return what listens to the long steps of this process, in whatever thread; by default nothing does."""
    return _listener


@contextlib.contextmanager
def listening(new: Listener) -> Iterator[None]:
    """Let `new` listen to the long steps inside the block."""
    global _listener
    before, _listener = _listener, new
    try:
        yield
    finally:
        _listener = before


class Step(contextlib.AbstractContextManager["Step"]):
    """A step that may be long. The process's listener hears of it once it has lasted for `PATIENCE` seconds."""

    PATIENCE = 2.0
    SECONDS = 0.1  # between two updates: more often shows nobody anything

    def __init__(self, stage: str, total: int | None, counted: str) -> None:
        """Begin a step of `total` parts, None where it is not known; `counted` names them."""
        self.stage, self.total, self.counted = stage, total, counted
        self.done = 0
        self._heard: Listener | None = None
        self._told = time.monotonic()

    def advance(self, parts: int = 1, total: int | None = None) -> None:
        """Note that so many more parts are done, and that there are `total` of them where that has changed."""
        self.done += parts
        changed, self.total = total not in (None, self.total), total or self.total
        now = time.monotonic()
        if now - self._told < (self.SECONDS if self._heard else self.PATIENCE):
            return
        self._told = now
        if self._heard is None or changed:
            self._heard = self._heard or listener()
            self._heard.begin(self.stage, self.total, 0, self.counted)
        self._heard.update(self.stage, self.done)

    def __exit__(self, *error: object) -> None:
        if self._heard is not None:
            self._heard.update(self.stage, self.done)
            self._heard.end(self.stage)


def counted(items: Iterable[T], stage: str, total: int | None, name: str) -> Iterator[T]:
    """Yield the items as parts of a step; `name` is what they are called."""
    with Step(stage, total, name) as step:
        for item in items:
            yield item
            step.advance()
