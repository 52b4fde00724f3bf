"""Words that the sections of a monthly report share, and the length of names in them."""

from __future__ import annotations

import re

from audit.report.words import plain

NAME = 120  # most characters of a name
SENTENCE = 400

_PERCENT = re.compile(r"(?<=\d) %")


def name(text: object) -> str:
    """Return a name on one line, cut where it is too long to print."""
    return plain(text, NAME)


def unbroken(text: str) -> str:
    """Return text in which no line ends between a number and its percent sign."""
    return _PERCENT.sub("\u00a0%", text)
