"""Write a monthly report as one static HTML page: no script, and no request to anywhere."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from audit.compliance.contents import header, sections
from audit.compliance.report import Report
from audit.compliance.wording import name, unbroken
from audit.report.words import SYMBOLS


def render(report: Report) -> str:
    """Return the whole page."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("audit.compliance"), PackageLoader("audit.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("monthly.html.j2").render(
        system=name(report.system),
        month=report.month,
        header=header(report),
        status=report.status,
        symbols=SYMBOLS,
        sections=sections(report),
    )


def _shown(value: object) -> object:
    """Return text as it is set; anything else, markup among it, unchanged."""
    return unbroken(value) if type(value) is str else value
