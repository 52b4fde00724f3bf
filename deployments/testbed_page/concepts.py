"""Tables of a benchmark run by concept, and of what survives beside the concepts.

The mean over concepts is the paper's number; each concept's own rate stands beside it.
"""

from __future__ import annotations

from audit.records import Role
from audit.report.view import Column, Index, Table
from audit.report.words import NOT_AVAILABLE, percent, plain
from audit.verdict.results import CrrRow
from deployments.testbed_page.erasers import Kept, Rate
from deployments.testbed_page.findings import judges, name_of


def by_concept(index: Index) -> Table:
    """Return a row for each defence and scenario: mean over concepts, lowest and highest concept, then each concept's counts.

    The mean gives every concept the same weight, however many of its cases were assessed; a concept without an assessed
    case is left out of it. Counts are hits / assessed of the first detector that decides.
    """
    judge = judges(index)[0]
    rows = [
        row
        for row in index.targets()
        if row.detector == judge and row.subject == row.concept and row.scenario != "none"
    ]
    concepts = list(dict.fromkeys(row.concept for row in rows))
    cells: dict[tuple[str, str], dict[str, CrrRow]] = {}
    for row in rows:
        cells.setdefault((row.scenario, row.defence), {})[row.concept] = row
    lines = []
    for (scenario, defence), found in cells.items():
        rates = {c: row.hits / row.assessed for c, row in found.items() if row.assessed}
        counts = [f"{found[c].hits}/{found[c].assessed}" if c in found else NOT_AVAILABLE for c in concepts]
        lines.append((name_of(defence), plain(scenario), *_spread(rates), *counts))
    numbers = ("Mean over concepts", "Lowest", "Highest", *map(plain, concepts))
    columns = (Column("Defence"), Column("Scenario"), *(Column(label, "number") for label in numbers))
    return Table(f"Each concept: hits / assessed, {plain(judge)}", columns, tuple(lines), heads=2)


def neighbours_kept(index: Index) -> Table:
    """Return a row for each defence: the rate of neighbours by their names, over all concepts, and its ratio to the backbone's.

    Empty when the run prompts no neighbours.
    """
    judge = judges(index)[0]
    rows = [
        row for row in index.result.crr if row.detector == judge and row.role == Role.NEIGHBOUR and row.kind == "text"
    ]
    before = Rate.of([row for row in rows if row.defence == "none"])
    lines = []
    for defence in dict.fromkeys(row.defence for row in rows):
        after = Rate.of([row for row in rows if row.defence == defence])
        lines.append((name_of(defence), str(after), "-" if defence == "none" else str(Kept(after, before))))
    columns = (Column("Defence"), Column(f"Rate, {plain(judge)}", "number"), Column("Kept", "number"))
    return Table(
        "Neighbours by their names in text, and the share of the backbone's rate that is kept", columns, tuple(lines)
    )


def _spread(rates: dict[str, float]) -> tuple[str, str, str]:
    if not rates:
        return NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE
    ordered = sorted(rates, key=lambda concept: rates[concept])
    low, high = (f"{percent(rates[concept])} {plain(concept)}" for concept in (ordered[0], ordered[-1]))
    return percent(sum(rates.values()) / len(rates)), low, high
