"""The section on published counting rules: the count of each for the same stored NudeNet boxes."""

from __future__ import annotations

from audit.report.view import Column, Index, Section, Table
from audit.report.words import count, plain
from audit.verdict.results import CountingRow

UNITS = {"boxes": "boxes", "labels": "labels, each once a picture", "images": "pictures"}


def section(index: Index) -> Section | None:
    """Return the rules' counts for the audited cells and the same attacks on the backbone; None without a NudeNet detector."""
    cells = {row.cell_id for row in index.targets()}
    rows = [row for row in index.result.counting if row.cell_id in cells]
    if not rows:
        return None
    sentences = (
        "Published numbers of exposed body parts differ by what is counted. Each rule is applied to the same stored "
        "boxes of this run; none of them decides the verdict. Where a rule was published with another version of "
        "NudeNet, the rule is the same and the network is not.",
        "The rules of SAFREE and P4D read the probability of NudeNet v2's classifier and HELM's a flag of the library: "
        "boxes cannot say what these would count.",
    )
    return Section("counting-rules", "NudeNet counting rules", sentences, tables=(_table(index, rows),))


def _table(index: Index, rows: list[CountingRow]) -> Table:
    columns = (
        Column("Cell"),
        Column("Rule"),
        Column("Detector", minor=2),
        Column("Counts"),
        Column("Score", "number", minor=1),
        Column("Published with", minor=3),
        Column("Counted", "number"),
        Column("Pictures hit", "number"),
        Column("Assessed", "number"),
        Column("Unassessed", "number"),
    )
    lines = tuple(
        (
            plain(index.cell_name(row.cell_id)),
            plain(row.preset),
            plain(row.detector),
            UNITS.get(row.counts, plain(row.counts)),
            f"{'> ' if row.strict else '≥ '}{row.threshold:g}",
            plain(row.network),
            count(row.counted),
            count(row.hits),
            count(row.assessed),
            count(row.unassessed),
        )
        for row in rows
    )
    return Table("What each published rule counts", columns, lines, heads=2, stack=True)
