"""Print the report on a terminal: verdict, reasons, decisions, controls, rates and unassessed cases."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from audit.report import comparing, sections
from audit.report.view import Section, Table
from audit.report.words import SYMBOLS, ascii_text, plain
from audit.verdict.regression import Comparison, decided
from audit.verdict.results import RunResult

_STYLES = {"✓": "green", "✕": "bold red", "?": "yellow"}
_VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
_SHOWN = (
    "verdict",
    "regression",
    "unpaired",
    "reasons",
    "survival",
    "controls",
    "crr",
    "neighbours",
    "filters",
    "guards",
    "unassessed",
    "checks",
)
_LONGEST = 24  # a longer text is folded when a terminal is narrow
_GUTTER = 2
_PLAIN_WIDTH = 10_000  # lines in a log file are not wrapped


def print_report(
    result: RunResult,
    console: Console | None = None,
    *,
    file: TextIO | None = None,
    comparison: Comparison | None = None,
) -> None:
    """Print the report. Colours and frames on a terminal; elsewhere plain lines, one table row per line."""
    _Printer(_suited(console or Console(file=file))).report(result, comparison)


def print_comparison(comparison: Comparison, *, file: TextIO | None = None) -> None:
    """Print the comparison of two runs in the same way."""
    printer = _Printer(_suited(Console(file=file)))
    printer.line(comparing.headline(comparison), _VERDICT_STYLES[comparison.status.value])
    for section in comparing.sections(comparison):
        printer.section(section)


def _suited(console: Console) -> Console:
    """Return the console, or one of plain lines for the same file where it is no terminal."""
    if console.is_terminal:
        return console
    return Console(file=console.file, width=_PLAIN_WIDTH, color_system=None, force_terminal=False, legacy_windows=False)


def render(result: RunResult) -> str:
    """Return the report as plain text, as it is printed into a file."""
    buffer = io.StringIO()
    print_report(result, file=buffer)
    return buffer.getvalue()


class _Printer:
    """Writes sections to one console; every text passes through `Text`, so names cannot carry markup or escapes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = console.options.ascii_only
        self.framed = console.is_terminal

    def report(self, result: RunResult, comparison: Comparison | None = None) -> None:
        """Print the verdict, and the sections that a terminal shows."""
        status = decided(result.verdict.status, comparison).value
        self.line(
            f"{SYMBOLS[status]} {status}  {plain(result.name)}  ({plain(result.run_id)})", _VERDICT_STYLES[status]
        )
        for section in sections.build(result, comparison):
            if section.key in _SHOWN:
                self.section(section)

    def section(self, section: Section) -> None:
        """Print one section under its title."""
        if section.key != "verdict":
            self.line("")
            self.line(section.title, "bold")
        for sentence in section.sentences:
            self.line(sentence)
        for bullet in section.bullets:
            self.bullet(bullet)
        for table in section.tables:
            self.table(_without_passed(table) if section.key == "checks" else table)

    def table(self, table: Table) -> None:
        """Print a table without the columns for which there is no width, and name these."""
        if not table.rows:
            return
        kept, left_out = _fitting(table, self.console.width) if self.framed else (table, ())
        widths = _widths(kept, self.console.width) if self.framed else [None] * len(kept.columns)
        grid = RichTable(
            title=self.text(kept.caption) if self.framed else None,
            title_justify="left",
            box=box.SIMPLE_HEAD if self.framed else None,
            pad_edge=False,
            show_edge=False,
            collapse_padding=self.framed,
            safe_box=self.ascii,
        )
        for column, width in zip(kept.columns, widths, strict=True):
            grid.add_column(
                self.text(column.label),
                justify="right" if column.kind == "number" else "left",
                no_wrap=not self.framed,
                overflow="fold",
                width=width,
            )
        for row in kept.rows:
            grid.add_row(*(self.text(cell, _STYLES.get(cell[:1], "")) for cell in row))
        self.console.print(grid)
        if left_out:
            self.line(f"Left out for lack of width: {', '.join(left_out)}.", "dim")

    def bullet(self, text: str) -> None:
        """Print one bullet, whose further lines are indented."""
        if not self.framed:
            self.line(f"  - {text}")
            return
        grid = RichTable.grid(padding=(0, 1))
        grid.add_row(Text(" -"), self.text(text))
        self.console.print(grid)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(self.text(text, style), soft_wrap=not self.framed)

    def text(self, text: str, style: str = "") -> Text:
        return Text(ascii_text(text) if self.ascii else text, style=style)


def _needed(table: Table, place: int) -> int:
    """Return the number of characters that a column needs: its longest cell, or the longest word of its label."""
    words = table.columns[place].label.split()
    return min(_LONGEST, max(cell_len(text) for text in (*words, *(row[place] for row in table.rows))))


def _natural(table: Table, place: int) -> int:
    """Return the number of characters that a column takes when nothing in it is folded."""
    return max(cell_len(text) for text in (table.columns[place].label, *(row[place] for row in table.rows)))


def _widths(table: Table, width: int) -> Sequence[int | None]:
    """Return the columns' widths for a table of at most `width`; Nones, for folding as it comes, when they cannot fit."""
    widths = [_needed(table, place) for place in range(len(table.columns))]
    spare = width - sum(widths) - _GUTTER * len(widths)
    if spare + _GUTTER < 0:
        return [None] * len(widths)
    natural = [_natural(table, place) for place in range(len(widths))]
    while spare > 0 and any(have < want for have, want in zip(widths, natural, strict=True)):
        for place, want in enumerate(natural):
            if widths[place] < want and spare > 0:
                widths[place] += 1
                spare -= 1
    return widths


def _fitting(table: Table, width: int) -> tuple[Table, tuple[str, ...]]:
    """Return the table without as many minor columns as it takes to fit into `width`, and the labels of those left out."""
    needed = [_needed(table, place) + _GUTTER for place in range(len(table.columns))]
    minor = sorted(
        (p for p in range(len(table.columns)) if table.columns[p].minor), key=lambda p: -table.columns[p].minor
    )
    dropped: set[int] = set()
    for place in minor:
        if sum(n for p, n in enumerate(needed) if p not in dropped) - _GUTTER > width:
            dropped.add(place)
    places = [p for p in range(len(table.columns)) if p not in dropped]
    kept = dataclasses.replace(
        table,
        columns=tuple(table.columns[p] for p in places),
        rows=tuple(tuple(row[p] for p in places) for row in table.rows),
    )
    return kept, tuple(table.columns[p].label for p in sorted(dropped))


def _without_passed(table: Table) -> Table:
    """Return only the checks that did not pass; the sentence above says how many did."""
    rows = tuple(row for row in table.rows if not row[0].startswith("✓"))
    return dataclasses.replace(table, rows=rows)
