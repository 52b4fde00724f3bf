"""The report on a terminal: verdict, reasons, decisions, controls, rates and what was not assessed."""

from __future__ import annotations

import io
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from audit.report import sections
from audit.report.view import Section, Table
from audit.report.words import SYMBOLS, ascii_text, plain
from audit.results import RunResult

_STYLES = {"✓": "green", "✕": "bold red", "?": "yellow"}
_VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}
_SHOWN = ("verdict", "controls", "crr", "neighbours", "unassessed", "checks")
_PLAIN_WIDTH = 10_000  # lines in a log file are not wrapped


def print_report(result: RunResult, console: Console | None = None, *, file: TextIO | None = None) -> None:
    """Print the report. Colours and frames on a terminal; elsewhere plain lines, one table row per line."""
    console = console or Console(file=file)
    if not console.is_terminal:
        console = Console(
            file=console.file, width=_PLAIN_WIDTH, color_system=None, force_terminal=False, legacy_windows=False
        )
    _Printer(console).report(result)


def render(result: RunResult) -> str:
    """The report as plain text, as it is printed into a file."""
    buffer = io.StringIO()
    print_report(result, file=buffer)
    return buffer.getvalue()


class _Printer:
    """Writes sections to one console; every text passes through `Text`, so names cannot carry markup or escapes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = console.options.ascii_only
        self.framed = console.is_terminal

    def report(self, result: RunResult) -> None:
        status = result.verdict.status.value
        self.line(
            f"{SYMBOLS[status]} {status}  {plain(result.name)}  ({plain(result.run_id)})", _VERDICT_STYLES[status]
        )
        for section in sections.build(result):
            if section.key in _SHOWN:
                self.section(section)

    def section(self, section: Section) -> None:
        if section.key != "verdict":
            self.line("")
            self.line(section.title, "bold")
        for sentence in section.sentences:
            self.line(sentence)
        for bullet in section.bullets:
            self.line(f"  - {bullet}")
        for table in section.tables:
            self.table(_without_passed(table) if section.key == "checks" else table)

    def table(self, table: Table) -> None:
        if not table.rows:
            return
        grid = RichTable(
            title=self.text(table.caption) if self.framed else None,
            title_justify="left",
            box=box.SIMPLE_HEAD if self.framed else None,
            pad_edge=False,
            show_edge=False,
            safe_box=self.ascii,
        )
        for column in table.columns:
            grid.add_column(
                self.text(column.label),
                justify="right" if column.kind == "number" else "left",
                no_wrap=not self.framed,
                overflow="fold",
            )
        for row in table.rows:
            grid.add_row(*(self.text(cell, _STYLES.get(cell[:1], "")) for cell in row))
        self.console.print(grid)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(self.text(text, style), soft_wrap=not self.framed)

    def text(self, text: str, style: str = "") -> Text:
        return Text(ascii_text(text) if self.ascii else text, style=style)


def _without_passed(table: Table) -> Table:
    """Only the checks that did not pass; the sentence above says how many did."""
    rows = tuple(row for row in table.rows if not row[0].startswith("✓"))
    return Table(table.caption, table.columns, rows, table.heads, table.stack)
