"""The block of any run: the rates of its scenarios through every defence, beside the un-erased model and a class unlearned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from audit.records import Control
from audit.report.filtering import over_blocking
from audit.report.markdown import render_section
from audit.report.view import Column, Index, Section, Table
from audit.verdict.results import CrrRow, RunResult
from deployments.testbed_page.erasers import CONFIDENCE, Rate
from deployments.testbed_page.probes import TRIVIAL

_HEADS = ("concept", "scenario", "defence", "CRR", "without filters", "un-erased", "unlearned class")


def block(result: RunResult, published: Path | None = None) -> str:
    """Return the block as Markdown, by the judges that decide, and what filters block of what must survive."""
    tables = [_table(result, judge) for judge in result.spec["gate"]["judges"]]
    sentences = (
        f"CRR of each scenario through each defence, {CONFIDENCE:.0%} intervals. Stages of cycles and steps of a training "
        "stand in brackets. The un-erased model and a class that no model learned, through the defence where it was run "
        "there, have the same scenario and seeds, and the same stage or step where there is one.",
    )
    blocked = over_blocking(Index(result))
    tables += [blocked] if blocked.rows else []
    return f"Run `{result.run_id}`.\n\n{render_section(Section('rates', '', sentences, tables=tuple(tables)))}"


def _table(result: RunResult, judge: str) -> Table:
    rows = [row for row in result.crr if row.detector == judge]
    found = tuple(_rows(rows))
    filtered = any(row[4] for row in found)
    keep = [i for i, head in enumerate(_HEADS) if filtered or head != "without filters"]
    return Table(
        f"By the {judge}",
        tuple(Column(_HEADS[i]) for i in keep),
        tuple(tuple(row[i] for i in keep) for row in found),
    )


def _rows(rows: Sequence[CrrRow]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each cell in which a defence's concept is sought, points of curves among them, in the plan's order."""
    for row in rows:
        if row.subject != row.concept or row.control not in (None, Control.CHECKPOINT) or row.defence == "none":
            continue
        same = [one for one in rows if (one.scenario, one.concept) == (row.scenario, row.concept)]
        never = {one.subject for one in same if one.control == Control.UNLEARNED}
        point = [one for one in same if _at(one) == _at(row) and one.control not in TRIVIAL]
        unerased = [one for one in point if one.subject == row.subject and one.defence == "none"]
        strange = [one for one in point if one.subject in never]
        strange = [one for one in strange if one.defence == row.defence] or strange
        at = "" if row.perturbation is None else f" ({row.perturbation} {row.strength:g})"
        yield (
            row.concept,
            f"{row.scenario}{at}",
            row.defence,
            str(Rate.of([row])),
            str(Rate(row.unfiltered_hits, row.unfiltered_assessed)) if row.blocked else "",
            str(Rate.of(unerased)) if unerased else "",
            str(Rate.of(strange)) if strange else "",
        )


def _at(row: CrrRow) -> tuple[str, float | None] | None:
    """Return the point of a curve, but for the last, which decides."""
    return None if row.perturbation is None else (row.perturbation, row.strength)
