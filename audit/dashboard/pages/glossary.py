"""The words of these pages."""

from __future__ import annotations

from audit.dashboard.context import Context, Page
from audit.dashboard.glossary import WORDS
from audit.dashboard.links import Query
from audit.dashboard.queries import only

VERDICTS = (
    (
        "PASS",
        "In every decided cell, by every judge, the rate is bounded at or under its limit, and what must survive does.",
    ),
    ("FAIL", "In at least one cell the rate is shown to exceed its limit, or too little survives."),
    ("INCONCLUSIVE", "Neither is shown. The gate stays shut."),
)


def glossary(context: Context, query: Query) -> Page:
    """Return the words with their meanings."""
    only(query)
    return Page("Glossary", "glossary.html.j2", {"words": WORDS, "verdicts": VERDICTS})
