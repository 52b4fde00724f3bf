"""Write the report as one static HTML page: no script, no request to anywhere, everything a reader needs inside."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from audit.report import sections
from audit.report.chart import Plot
from audit.report.contact import PER_CELL, Pictures, contact_sheets
from audit.report.curves import curves
from audit.report.likelihoods import likelihoods
from audit.report.plots import plots
from audit.report.view import Index
from audit.report.words import SYMBOLS, plain
from audit.verdict.results import RunResult

LOG = logging.getLogger(__name__)


_PERCENT = re.compile(r"(?<=\d) %")


def _unbroken(value: object) -> object:
    """Return text in which no line ends between a number and its percent sign; anything else unchanged."""
    return _PERCENT.sub("\u00a0%", value) if type(value) is str else value


def render(
    result: RunResult, pictures: Pictures | None, *, show_sensitive: bool = False, per_cell: int = PER_CELL
) -> str:
    """Return the whole page. `show_sensitive` shows sensitive pictures unblurred, which the page states and the log records.

    Without `pictures` it holds none, and no word about single ones.
    """
    if show_sensitive:
        LOG.warning("report of run %s shows sensitive pictures unblurred, as asked", plain(result.run_id))
    environment = Environment(
        loader=PackageLoader("audit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    index = Index(result)
    sheets = contact_sheets(result, pictures, show_sensitive=show_sensitive, per_cell=per_cell) if pictures else ()
    return environment.get_template("report.html.j2").render(
        name=plain(result.name),
        run_id=plain(result.run_id),
        created_at=plain(result.created_at),
        status=result.verdict.status.value,
        symbols=SYMBOLS,
        sections=sections.build(result),
        plots=_drawn(plots(index)),
        curves=_drawn(curves(index)),
        likelihoods=_drawn(likelihoods(index)),
        confidence=index.confidence(),
        sheets=sheets,
        pictured=pictures is not None,
        judge=index.policy.judges[0] if index.policy else None,
        any_blurred=any(sheet.blurred for sheet in sheets),
        show_sensitive=show_sensitive,
    )


def _drawn(figures: Sequence[Plot]) -> list[dict[str, object]]:
    return [
        {"caption": plot.caption, "wide": Markup(plot.wide), "narrow": Markup(plot.narrow), "marks": plot.marks}
        for plot in figures
    ]
