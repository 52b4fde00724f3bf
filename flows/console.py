"""The output of the command line: progress on stderr, results on stdout, and nothing else on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from audit.progress import Pace
from audit.progress.lines import Lines, speed
from audit.progress.lines import duration as duration
from audit.progress.steps import listening

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


class PlainReporter(Lines):
    """A reporter of plain lines on stderr."""

    def __init__(self, counted: str = "units") -> None:
        super().__init__(say, LINE_SECONDS, counted)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return parts a second, a minute or an hour."""
        rate = task.fields["pace"].rate
        return Text("" if rate is None else speed(rate), style="progress.data.speed")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the time left; rich's own column forgets parts that take longer than half a minute."""
        left = None if task.total is None or task.finished else task.fields["pace"].seconds_left(int(task.total))
        return Text("" if left is None else f"{duration(left)} left", style="progress.remaining")


class BarReporter:
    """A reporter with one progress bar for each stage, on a terminal. The bar of a step inside a stage goes when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}

    def begin(self, stage: str, total: int | None, done: int, counted: str = "") -> None:
        """Show a bar; a stage without units shows none."""
        if total == 0:
            return
        if self._progress is not None and stage in self._bars:
            self._progress.update(self._bars[stage], total=total)
            return
        if self._progress is None:
            name, bar, counts = TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn()
            columns = (name, bar, counts, TextColumn("{task.fields[counted]}"), TimeElapsedColumn(), _Rate(), _Left())
            self._progress = Progress(*columns, console=self._console, redirect_stdout=False)
            self._progress.start()
        self._paces[stage] = pace = Pace(done)
        self._bars[stage] = self._progress.add_task(stage, total=total, completed=done, pace=pace, counted=counted)

    def update(self, stage: str, done: int) -> None:
        """Move the bar."""
        if self._progress is not None and stage in self._bars:
            self._paces[stage].mark(done)
            self._progress.update(self._bars[stage], completed=done)

    def end(self, stage: str) -> None:
        """Leave the bar where it is."""
        bar = self._bars.pop(stage, None)
        if self._progress is None or bar is None:
            return
        self._progress.stop_task(bar)
        if not self._bars:
            self.close()
        elif self._progress.tasks[self._progress.task_ids.index(bar)].fields["counted"]:
            self._progress.remove_task(bar)  # a step inside a stage

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None
        self._bars.clear()


@contextlib.contextmanager
def progress_bars(counted: str = "units") -> Iterator[BarReporter | PlainReporter]:
    """Give the reporter that fits stderr: bars on a terminal, plain lines elsewhere. `counted` names what a total counts.

    It listens to the long steps inside the block.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        plain = PlainReporter(counted)
        with listening(plain):
            yield plain
        return
    bars = BarReporter(console)
    try:
        with listening(bars):
            yield bars
    finally:
        bars.close()
