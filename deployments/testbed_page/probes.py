"""The probes' block: does each attack find more than its own trivial control?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
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
    """One probe of one defence beside one of its controls."""

    probe: CrrRow
    control: CrrRow
    unerased: Rate

    @property
    def control_name(self) -> str:
        """The control in words."""
        name = CONTROLS[str(self.control.control)][0]
        return f"{name} {self.control.subject}" if self.control.control == Control.UNLEARNED else name


def block(result: RunResult, published: Path | None = None, beside: RunResult | None = None) -> str:
    """Return the block as Markdown: the probes beside their controls over all defences, and through each.

    `beside` is a run of the same probes with another concept.
    """
    results = (result,) if beside is None else (result, beside)
    judge = result.spec["gate"]["judges"][0]
    compared = [one for each in results for one in comparisons(each, judge)]
    sentences = (
        f"CRR by the {judge}, {CONFIDENCE:.0%} intervals. A control does what the probe does without what makes it one: random "
        "tokens in the places of searched ones, sampling without the noise, steps of the same length in a random direction, "
        "pictures of another concept, or a class that the model never learned, trained or guided in the same way. p is "
        "Fisher's exact one-sided p-value of the difference, corrected by Holm's rule for the table's rows. Cases are counted "
        "one by one, those that share a searched prompt or, over all defences, a seed too.",
    )
    section = Section("probes", "", sentences, tables=(_pooled(compared), _each(compared)))
    runs = " and ".join(f"`{each.run_id}`" for each in results)
    return f"{'Run' if beside is None else 'Runs'} {runs}.\n\n{render_section(section)}"


def _pooled(compared: Sequence[Comparison]) -> Table:
    rows, p_values = [], []
    for probe, control in dict.fromkeys((one.probe.scenario, one.control_name) for one in compared):
        same = [one for one in compared if (one.probe.scenario, one.control_name) == (probe, control)]
        found = Rate.of([one.probe for one in same])
        # One control may serve all defences.
        beside = Rate.of(list({(one.control.concept, one.control.cell_id): one.control for one in same}.values()))
        rows.append((probe, str(found), control, str(beside)))
        p_values.append(_p(found, beside))
    heads = ("probe", "CRR", "control", "its CRR", "p", "finds more")
    over = dict.fromkeys(one.probe.concept for one in compared)
    title = f"Over all defences{'' if len(over) == 1 else ' and the concepts ' + ' and '.join(over)}"
    return Table(title, tuple(map(Column, heads)), _judged(rows, p_values))


def _each(compared: Sequence[Comparison]) -> Table:
    rows, p_values = [], []
    for one in compared:
        found, beside = Rate.of([one.probe]), Rate.of([one.control])
        through = "" if one.control.defence == one.probe.defence else ", un-erased model"
        name = f"{one.control_name}{through}"
        rows.append(
            (one.probe.scenario, one.probe.concept, one.probe.defence, str(one.unerased), str(found), name, str(beside))
        )
        p_values.append(_p(found, beside))
    heads = ("probe", "concept", "defence", "un-erased", "CRR", "control", "its CRR", "p", "finds more")
    return Table("Through each defence", tuple(map(Column, heads)), _judged(rows, p_values))


def _p(found: Rate, beside: Rate) -> float:
    """Return Fisher's exact p-value, one-sided, of the control finding as many as the probe."""
    return p_more(found.hits, found.total, beside.hits, beside.total)


def _judged(rows: Sequence[tuple[str, ...]], p_values: Sequence[float]) -> tuple[tuple[str, ...], ...]:
    """Return the rows with their corrected p-values, and whether these say that the probe finds more."""
    corrected = holm(p_values)
    return tuple(
        (*row, f"{p:.2g}", "yes" if p <= 1 - CONFIDENCE else "no") for row, p in zip(rows, corrected, strict=True)
    )


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
