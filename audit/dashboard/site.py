"""Turn the name of a page and a query into HTML."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from audit.dashboard.context import Context, Page, PageFunction, PageMissing
from audit.dashboard.links import HOME, Query
from audit.dashboard.pages.case import case
from audit.dashboard.pages.compare import compare
from audit.dashboard.pages.evidence import evidence
from audit.dashboard.pages.glossary import glossary
from audit.dashboard.pages.instruments import instruments
from audit.dashboard.pages.overview import overview
from audit.dashboard.pages.run import run
from audit.dashboard.pages.runs import runs
from audit.dashboard.pages.trend import trend
from audit.dashboard.tables import badge, body, readable
from audit.report.words import SYMBOLS, plain

PAGES: Mapping[str, PageFunction] = {
    HOME: overview, "runs": runs, "run": run, "trend": trend, "compare": compare, "case": case, "instruments": instruments,
    "evidence": evidence, "glossary": glossary,
}  # fmt: skip
MENU = (
    (HOME, "Overview"), ("runs", "Runs"), ("compare", "Compare"), ("instruments", "Instruments and controls"),
    ("evidence", "Evidence and attempts"),
    ("glossary", "Glossary"),
)  # fmt: skip
STYLE = "style.css"
# On disk a page's own folder is no origin, so a static site has to allow files by name.
POLICY = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'"
FILE_POLICY = "default-src 'none'; style-src 'self' file:; img-src data:; form-action 'none'; base-uri 'none'"


@dataclasses.dataclass(frozen=True)
class Answer:
    """A page as HTML, and whether it is the one that was asked for."""

    status: int  # of HTTP: 200 or 404
    html: str


def answer(context: Context, name: str, query: Query) -> Answer:
    """Return the page `name`, or one that says what is missing and leads back."""
    name, query = _encodable(name), {_encodable(field): _encodable(value) for field, value in query.items()}
    try:
        page = _page(context, name, query)
        return Answer(200, _render(context, page, name))
    except PageMissing as missing:
        page = Page("Not here", "missing.html.j2", {"sentence": str(missing), "home": context.link(HOME)})
        return Answer(404, _render(context, page, name))


def _encodable(text: str) -> str:
    """Return text without unpaired surrogates, which an address can name and no index can hold."""
    return text.encode(errors="replace").decode()


def failure(sentence: str, next_step: str) -> str:
    """Return a page that says that the index cannot be read."""
    return _environment().get_template("failure.html.j2").render(sentence=sentence, next_step=next_step, style=STYLE)


def style_sheet() -> bytes:
    """Return the one style sheet of all pages: the report's, and what it lacks."""
    report = files("audit.report").joinpath("templates", "report.css").read_bytes()
    return report + files("audit.dashboard").joinpath("templates", "dashboard.css").read_bytes()


def _page(context: Context, name: str, query: Query) -> Page:
    function = PAGES.get(name)
    if function is None:
        raise PageMissing(f"This site has no page {name[:80]!r}.")
    if not context.con.execute("select count(*) from runs").fetchall()[0][0] and name not in ("glossary",):
        return Page("No runs yet", "empty.html.j2", {})
    return function(context, query)


def _render(context: Context, page: Page, name: str) -> str:
    menu = [(label, context.link(target), target == name) for target, label in MENU]
    return (
        _environment()
        .get_template(page.template)
        .render(
            **page.values,
            title=page.title,
            heading=page.heading or page.title,
            menu=menu,
            live=context.links.live,
            policy=None if context.links.live else FILE_POLICY,
            style=context.links.root + STYLE,
            index=context.index,
            notice=context.notice,
            now=f"{context.now:%Y-%m-%d %H:%M} UTC",
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("audit.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["body"] = body
    environment.filters["cut"] = lambda text, length=60: plain(text, length)
    environment.globals.update(symbols=SYMBOLS, badge=badge)
    return environment


def _safe(value: object) -> object:
    """Return text without characters that control a terminal or a line's direction; anything else unchanged."""
    return readable(value) if type(value) is str else value
