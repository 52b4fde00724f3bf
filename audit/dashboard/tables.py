"""Tables whose cells may be links, and figures, as templates take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from markupsafe import Markup

from audit.report.chart import Plot
from audit.report.view import Column, Table


@dataclasses.dataclass(frozen=True)
class Linked:
    """Text that leads to another page."""

    text: str
    href: str


Cell = str | Linked


@dataclasses.dataclass(frozen=True)
class LinkedTable:
    """A captioned table; see `audit.report.view.Table`, whose cells are text alone."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    stack: bool = True


AnyTable = LinkedTable | Table


def drawn(figures: Sequence[Plot]) -> list[dict[str, object]]:
    """Return figures for a template; their markup was written by `audit.report.svg`, which escapes text."""
    return [
        {"caption": plot.caption, "wide": Markup(plot.wide), "narrow": Markup(plot.narrow), "marks": plot.marks}
        for plot in figures
    ]
