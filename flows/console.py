"""The output of the command line: progress on stderr, results on stdout, and nothing else on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from audit.progress import Pace

PROGRAM = "erasure-audit"
COMMANDS = (
    "baseline", "compare", "compliance-report", "corpus", "dashboard", "db", "doctor", "erase", "evidence", "export",
    "export-embedding", "gate", "init", "inspect", "labels", "methods", "plan", "policy", "report", "resume", "retention",
    "run", "schema", "status", "testbed", "tune", "waiver", "work",
)  # fmt: skip
_COMMAND = re.compile(rf"\b{PROGRAM} (?=(?:--debug|{'|'.join(COMMANDS)})\b)")
LINE_SECONDS = 10.0  # plain progress lines come at most this often


class Format(StrEnum):
    """The form in which a result is printed; exit codes are the same for all."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"
    SUMMARY = "summary"


def runnable(text: str) -> str:
    """Return `text` with its commands as this shell can run them: by the script's path where the name alone is not found."""
    script = sys.argv[0]
    if Path(script).name != PROGRAM or shutil.which(PROGRAM):
        return text
    return _COMMAND.sub(lambda _: f"{shlex.quote(script)} ", text)


def say(text: str) -> None:
    """Print one message for a person, on stderr, its commands as this shell can run them."""
    print(runnable(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Return text with what no terminal should act on written out: line ends, control characters, half characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def emit_json(document: object) -> None:
    """Print the one JSON document of this command on stdout. JSON has no NaN or infinity: they become null."""
    print(json.dumps(_finite(document), indent=2, default=str, ensure_ascii=False, allow_nan=False), flush=True)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as aligned columns on stdout; nothing is wrapped or cut."""
    if not rows:
        return
    cells = [[str(name) for name in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def amount(size: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class PlainReporter:
    """A reporter of plain lines: one when a stage begins, every few seconds with the time left, and one at its end.

    Several stages may go on at once.
    """

    def __init__(self, counted: str = "units") -> None:
        self._counted = counted
        self._stages: dict[str, _Lines] = {}

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Print what the stage has to do, and nothing for a stage without units."""
        lines = self._stages[stage] = _Lines(self._counted, total, done)
        if total is None or total > done:
            say(f"{stage}: {lines.state()}")

    def update(self, stage: str, done: int) -> None:
        """Print how far the stage is, when the last line is old."""
        lines = self._stages[stage]
        lines.mark(done)
        if time.monotonic() - lines.said >= LINE_SECONDS:
            lines.said = time.monotonic()
            left = lines.seconds_left()
            say(f"{stage}: {lines.state()}" + (f", {duration(left)} left" if left else ""))

    def end(self, stage: str) -> None:
        """Print how the stage ended."""
        lines = self._stages.get(stage)
        if lines is not None and lines.done > lines.began_with:
            say(f"{stage}: {lines.state()} in {duration(time.monotonic() - lines.began)}")

    def note(self, text: str) -> None:
        """Print a line."""
        say(text)


class _Lines:
    """One stage of a plain reporter."""

    def __init__(self, counted: str, total: int | None, done: int) -> None:
        self._counted, self._total = counted, total
        self.done = self.began_with = done
        self.said = self.began = time.monotonic()
        self._pace = Pace(done)

    def mark(self, done: int) -> None:
        """Note how far the stage is."""
        self.done = done
        self._pace.mark(done)

    def seconds_left(self) -> float | None:
        """Return the seconds that the stage still takes; None when nobody can tell."""
        return None if self._total is None else self._pace.seconds_left(self._total)

    def state(self) -> str:
        """Return how far the stage is, in words."""
        return f"{self.done} objects" if self._total is None else f"{self.done}/{self._total} {self._counted}"


class BarReporter:
    """A reporter with one progress bar for each stage, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Show a bar; a stage without units shows none."""
        if total is None or total:
            self._bars[stage] = self._progress.add_task(stage, total=total, completed=done)

    def update(self, stage: str, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._bars[stage], completed=done)

    def end(self, stage: str) -> None:
        """Leave the bar where it is."""
        if stage in self._bars:
            self._progress.stop_task(self._bars[stage])

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextlib.contextmanager
def progress_bars(counted: str = "units") -> Iterator[BarReporter | PlainReporter]:
    """Give the reporter that fits stderr: bars on a terminal, plain lines elsewhere. `counted` names what a total counts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainReporter(counted)
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, redirect_stdout=False) as progress:
        yield BarReporter(progress)
