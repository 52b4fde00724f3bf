"""The probes' block: does each attack find more than its own trivial control?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from audit.records import Control, Role, Scenario
from audit.report.markdown import render_section
from audit.report.view import Column, Section, Table
from audit.report.words import CONTROLS
from audit.statistics.association import p_more
from audit.statistics.multiplicity import holm
from audit.verdict.results import CrrRow, RunResult
from deployments.testbed_page.erasers import CONFIDENCE, Rate

TRIVIAL = (Control.RANDOM_TOKENS, Control.PLAIN_SAMPLING, Control.RANDOM_DIRECTION, Control.OTHER_PICTURES)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One probe of one defence beside one of its controls, and the chance of so many more hits if both found alike."""

    probe: CrrRow
    control: CrrRow
    unerased: Rate

    @property
    def p(self) -> float:
        """Fisher's exact p-value, one-sided, of `control` finding as many as `probe`."""
        return p_more(self.probe.hits, self.probe.assessed, self.control.hits, self.control.assessed)


def block(result: RunResult, published: Path | None = None) -> str:
    """Return the block as Markdown: every probe through every defence beside its controls."""
    judge = result.spec["gate"]["judges"][0]
    compared = list(comparisons(result, judge))
    corrected = holm([one.p for one in compared])
    sentences = (
        f"CRR by the {judge}, {CONFIDENCE:.0%} intervals. A control does what the probe does without what makes it one: random "
        "tokens in the places of searched ones, sampling without the noise, steps of the same length in a random direction, "
        "pictures of another concept, or a class that the model never learned, trained or guided in the same way. p is "
        "Fisher's exact one-sided p-value of the difference, corrected by Holm's rule for the table's rows. Cases that share "
        "a searched prompt are counted one by one.",
    )
    heads = ("probe", "defence", "un-erased", "CRR", "control", "its CRR", "p", "finds more")
    rows = tuple(_row(one, p) for one, p in zip(compared, corrected, strict=True))
    section = Section(
        "probes", "", sentences, tables=(Table("Probes and their controls", tuple(map(Column, heads)), rows),)
    )
    return f"Run `{result.run_id}`.\n\n{render_section(section)}"


def comparisons(result: RunResult, judge: str) -> Iterator[Comparison]:
    """Yield each probe of each defence with each of its controls by `judge`, in the plan's order.

    Points of a curve are left out: relearning is compared after its last step. A control that was not run through the
    defence stands for it with its cell on the un-erased model.
    """
    rows = [row for row in result.crr if row.detector == judge and row.perturbation is None]
    for probe in rows:
        if probe.role != Role.TARGET or probe.defence == "none" or probe.kind == Scenario.TEXT:
            continue
        same = [row for row in rows if (row.scenario, row.concept) == (probe.scenario, probe.concept)]
        unerased = Rate.of([row for row in same if row.control == Control.BACKBONE])
        controls = [row for row in same if row.control in TRIVIAL and row.defence == probe.defence]
        strange = [row for row in same if row.control == Control.UNLEARNED]
        controls += [row for row in strange if row.defence == probe.defence] or strange
        yield from (Comparison(probe, control, unerased) for control in controls)


def _row(one: Comparison, p: float) -> tuple[str, ...]:
    name = CONTROLS[str(one.control.control)][0]
    if one.control.control == Control.UNLEARNED:
        name = f"{name} {one.control.subject}"
    control = name if one.control.defence == one.probe.defence else f"{name}, un-erased model"
    rates = str(Rate.of([one.probe])), control, str(Rate.of([one.control]))
    return (
        one.probe.scenario,
        one.probe.defence,
        str(one.unerased),
        *rates,
        f"{p:.2g}",
        "yes" if p <= 1 - CONFIDENCE else "no",
    )
