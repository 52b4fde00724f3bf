"""Tables whose cells may be links, and figures, as templates take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from audit.report.chart import Plot
from audit.report.view import Column, Table


@dataclasses.dataclass(frozen=True)
class Linked:
    """Text that leads to another page."""

    text: str
    href: str


Cell = str | Linked
LONG, SHORT = 28, 20  # characters


@dataclasses.dataclass(frozen=True)
class LinkedTable:
    """A captioned table; see `audit.report.view.Table`, whose cells are text alone."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    stack: bool = True


@dataclasses.dataclass(frozen=True)
class LaidOut:
    """One cell as a template writes it; its attributes were escaped."""

    tag: str
    attributes: Markup
    text: str
    href: str
    is_status: bool


def laid_out(table: LinkedTable | Table) -> Iterator[list[LaidOut]]:
    """Yield the cells of each row. A long table has thousands, so what can be said of a column is written once."""
    roles = [' role="rowheader"' if n < table.heads else ' role="cell"' for n in range(len(table.columns))]
    labels = [Markup(' data-label="{}"').format(column.label) for column in table.columns]
    ends = [Markup(role) + label if table.stack else Markup() for role, label in zip(roles, labels, strict=True)]
    for row in table.rows:
        cells = []
        for n, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            text, href = (cell.text, cell.href) if isinstance(cell, Linked) else (cell, "")
            long = " l" if column.kind in ("text", "code") and len(text) > LONG else " s" if len(text) <= SHORT else ""
            scope = ' scope="row"' if n < table.heads else ""
            attributes = Markup(f'{scope} class="{column.kind}{long}"') + ends[n]
            cells.append(LaidOut("th" if n < table.heads else "td", attributes, text, href, column.kind == "status"))
        yield cells


def drawn(figures: Sequence[Plot]) -> list[dict[str, object]]:
    """Return figures for a template; their markup was written by `audit.report.svg`, which escapes text."""
    return [
        {"caption": plot.caption, "wide": Markup(plot.wide), "narrow": Markup(plot.narrow), "marks": plot.marks}
        for plot in figures
    ]
