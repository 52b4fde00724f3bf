"""Write a monthly report as one static HTML page: no script, and no request to anywhere."""

from __future__ import annotations

import re

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from audit.compliance.contents import header, sections
from audit.compliance.report import Report
from audit.compliance.wording import name
from audit.report.words import SYMBOLS

_PERCENT = re.compile(r"(?<=\d) %")


def render(report: Report) -> str:
    """Return the whole page."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("audit.compliance"), PackageLoader("audit.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
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


def _unbroken(value: object) -> object:
    """Return text in which no line ends between a number and its percent sign; anything else unchanged."""
    return _PERCENT.sub("\u00a0%", value) if type(value) is str else value
