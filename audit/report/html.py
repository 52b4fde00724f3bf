"""Write the report as one static HTML page: no script, no request to anywhere, everything a reader needs inside."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from audit.report import failures, judges, matrix, nearest, sections
from audit.report.chart import Plot
from audit.report.contact import MAX_PICTURES, PER_CELL, Sheet, contact_sheets
from audit.report.curves import curves, cycle_curves, relearning_curves
from audit.report.embedding import ENCODED, Pictures
from audit.report.likelihoods import likelihoods
from audit.report.plots import plots
from audit.report.strips import RULE, Strip, strips
from audit.report.view import Index
from audit.report.words import SYMBOLS, plain
from audit.verdict.regression import Comparison, decided
from audit.verdict.results import RunResult

LOG = logging.getLogger(__name__)

MOST_BYTES = 2_900_000  # of a page, so that it opens quickly and can be mailed
MOST_TEXT = 1_400_000  # of them without pictures
MARKUP = 400  # around one picture


@dataclasses.dataclass(frozen=True)
class _Extent:
    """How much of a long report the page shows: rows of one table, and bytes of all rate plots. None is everything."""

    rows: int | None = None
    plots: int | None = None


EXTENTS = (_Extent(), _Extent(400, 400_000), _Extent(120, 150_000), _Extent(30, 0))  # the first that fits is taken


_PERCENT = re.compile(r"(?<=\d) %")


def _unbroken(value: object) -> object:
    """Return text in which no line ends between a number and its percent sign; anything else unchanged."""
    return _PERCENT.sub("\u00a0%", value) if type(value) is str else value


@functools.cache
def _template() -> Template:
    """Return the page's template; compiling it takes longer than filling it in."""
    environment = Environment(
        loader=PackageLoader("audit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def render(
    result: RunResult,
    pictures: Pictures | None,
    *,
    show_sensitive: bool = False,
    per_cell: int = PER_CELL,
    comparison: Comparison | None = None,
) -> str:
    """Return the whole page. `show_sensitive` shows sensitive pictures unblurred, which the page states and the log records.

    Without `pictures` it holds none, and no word about single ones. Of a run whose page would be too long it shows the first
    rows of each table and the first plots, and says so; the matrix of rates and verdicts is always whole.
    """
    if show_sensitive:
        LOG.warning("report of run %s shows sensitive pictures unblurred, as asked", plain(result.run_id))
    page = _Page(result, comparison, show_sensitive=show_sensitive)
    for extent in EXTENTS:
        text = page.render(extent, pictured=pictures is not None)
        size = len(text.encode())
        if size <= MOST_TEXT:
            break
    if pictures is None:
        return text
    first = strips(page.index, pictures, show_sensitive=show_sensitive)
    examples = {
        part.KEY: part.sheets(page.index, pictures, show_sensitive=show_sensitive)
        for part in (judges, failures, nearest)
    }
    beside = sum(len(strip.frames) for strip in first.values())
    beside += sum(len(sheet.pictures) for sheets in examples.values() for sheet in sheets)
    used = sum(strip.bytes for strip in first.values())
    used += sum(sheet.bytes for sheets in examples.values() for sheet in sheets)
    room = (MOST_BYTES - size - MARKUP * (MAX_PICTURES + beside)) / ENCODED - used
    sheets = contact_sheets(result, pictures, show_sensitive=show_sensitive, per_cell=per_cell, room=int(room))
    return page.render(extent, pictured=True, first=first, sheets=sheets, examples=examples)


class _Page:
    """One run's page, built once and rendered to different extents."""

    def __init__(self, result: RunResult, comparison: Comparison | None, *, show_sensitive: bool) -> None:
        self.index = Index(result)
        self._figures = plots(self.index)
        self._sections = sections.build(result, comparison)
        self._fixed = {
            "name": plain(result.name),
            "run_id": plain(result.run_id),
            "created_at": plain(result.created_at),
            "status": decided(result.verdict.status, comparison).value,
            "symbols": SYMBOLS,
            "sections": self._sections,
            "nav_after": "glance" if any(section.key == "glance" for section in self._sections) else "verdict",
            "matrices": matrix.matrices(self.index),
            "matrix_caption": matrix.caption,
            "rule": RULE,
            "curves": _drawn(curves(self.index)),
            "relearning_curves": _drawn(relearning_curves(self.index)),
            "cycle_curves": _drawn(cycle_curves(self.index)),
            "likelihoods": _drawn(likelihoods(self.index)),
            "confidence": self.index.confidence(),
            "judge": self.index.policy.judges[0] if self.index.policy else None,
            "show_sensitive": show_sensitive,
        }

    def render(
        self,
        extent: _Extent,
        *,
        pictured: bool,
        first: dict[str, Strip] | None = None,
        sheets: Sequence[Sheet] = (),
        examples: Mapping[str, Sequence[Sheet]] | None = None,
    ) -> str:
        """Return the page with strips, contact sheets and the pictures of single sections by their keys, or without."""
        figures = _within(self._figures, extent.plots)
        shown = [*sheets, *(sheet for some in (examples or {}).values() for sheet in some)]
        blurred = any(sheet.blurred for sheet in shown) or any(strip.blurred for strip in (first or {}).values())
        return _template().render(
            **self._fixed,
            rows=extent.rows,
            anchors=self._anchors(extent.rows),
            plots=_drawn(figures),
            plots_left_out=len(self._figures) - len(figures),
            strips=first or {},
            sheets=sheets,
            examples=examples or {},
            pictured=pictured,
            any_blurred=blurred,
        )

    def _anchors(self, rows: int | None) -> frozenset[str]:
        """Return the anchors of the rows that the page has."""
        return frozenset(
            anchor
            for section in self._sections
            for table in section.tables
            for place, anchor in table.anchors.items()
            if rows is None or place < rows
        )


def _within(figures: Sequence[Plot], most: int | None) -> Sequence[Plot]:
    """Return the first figures that have at most so many bytes together."""
    if most is None:
        return figures
    kept: list[Plot] = []
    for figure in figures:
        most -= len(figure.wide) + len(figure.narrow)
        if most < 0:
            break
        kept.append(figure)
    return kept


def _drawn(figures: Sequence[Plot]) -> list[dict[str, object]]:
    return [
        {"caption": plot.caption, "wide": Markup(plot.wide), "narrow": Markup(plot.narrow), "marks": plot.marks}
        for plot in figures
    ]
