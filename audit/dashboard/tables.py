"""Tables whose cells may be links, and figures, as templates take them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from audit.report.chart import Plot
from audit.report.view import Column, Table
from audit.report.words import SYMBOLS, plain


@dataclasses.dataclass(frozen=True)
class Linked:
    """Text that leads to another page."""

    text: str
    href: str


Cell = str | Linked
LONG, SHORT, MOST = 28, 20, 600  # characters
_PERCENT = re.compile(r"(?<=\d) %")


@dataclasses.dataclass(frozen=True)
class LinkedTable:
    """A captioned table; see `audit.report.view.Table`, whose cells are text alone."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    stack: bool = True


def body(table: LinkedTable | Table) -> Markup:
    """Return the rows of a table as markup. A long table has thousands of cells, too many for a template's work on each."""
    parts = [_around(table, n) for n in range(len(table.columns))]
    role = ' role="row"' if table.stack else ""
    lines = []
    for row in table.rows:
        cells = []
        for column, (start, end, close), cell in zip(table.columns, parts, row, strict=True):
            text = cell.text if isinstance(cell, Linked) else cell
            long = " l" if column.kind in ("text", "code") and len(text) > LONG else " s" if len(text) <= SHORT else ""
            cells.append(f"{start}{long}{end}{_content(cell, column.kind)}{close}")
        lines.append(f"<tr{role}>{''.join(cells)}</tr>")
    return Markup("\n".join(lines))


def _around(table: LinkedTable | Table, number: int) -> tuple[str, str, str]:
    """Return what stands before a cell's class, between that and its content, and after it."""
    column, is_head = table.columns[number], number < table.heads
    tag, scope, role = ("th", ' scope="row"', "rowheader") if is_head else ("td", "", "cell")
    label = f' role="{role}" data-label="{escape(column.label)}"' if table.stack else ""
    return f'<{tag}{scope} class="{escape(column.kind)}', f'"{label}>', f"</{tag}>"


def _content(cell: Cell, kind: str) -> str:
    if isinstance(cell, Linked):
        return f'<a href="{escape(cell.href)}">{escape(readable(cell.text))}</a>'
    return status(cell) if kind == "status" else escape(readable(plain(cell, MOST)))


def status(text: str) -> str:
    """Return the markup of a verdict, or of a finding whose symbol is one of a verdict's; any other text as it is."""
    word = text[2:]
    if word in SYMBOLS:
        return badge(word)
    of = {"✓": "PASS", "✕": "FAIL", "?": "INCONCLUSIVE"}.get(text[:1])
    return _badge(of, text[:1], word) if of else escape(readable(text))


def badge(verdict: str | None) -> Markup:
    """Return the markup of a verdict: its symbol and its word."""
    if verdict is None or verdict not in SYMBOLS:
        return Markup('<span class="badge none">not decided</span>')
    return _badge(verdict, SYMBOLS[verdict], verdict)


def _badge(verdict: str, symbol: str, word: str) -> Markup:
    mark = f'<span class="symbol" aria-hidden="true">{symbol}</span>'
    return Markup(f'<span class="badge {verdict}">{mark}{escape(readable(word))}</span>')


def readable(text: str) -> str:
    """Return text without characters that control a terminal or a line's direction, each number together with its %."""
    return _PERCENT.sub("\u00a0%", text if text.isprintable() else plain(text))


def drawn(figures: Sequence[Plot]) -> list[dict[str, object]]:
    """Return figures for a template; their markup was written by `audit.report.svg`, which escapes text."""
    return [
        {"caption": plot.caption, "wide": Markup(plot.wide), "narrow": Markup(plot.narrow), "marks": plot.marks}
        for plot in figures
    ]
