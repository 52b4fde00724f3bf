"""The section on controls: what each must show, and whether it does."""

from __future__ import annotations

from audit.records import MASK_CONTROLS, NOISE_CONTROLS, Control
from audit.report import mask_controls
from audit.report.tables import CASES, INSTRUMENT, three_counts
from audit.report.view import Column, Index, Section, Table, defence_name
from audit.report.words import CONTROLS, NOT_AVAILABLE, count, interval, limit_text, percent, plain
from audit.verdict.decisions import ControlFinding


def required(finding: ControlFinding | None) -> str:
    """Return the policy's requirement of a control, in a few characters."""
    if finding is not None and finding.control == Control.BLACK:
        return "all degenerate"
    if finding is not None and finding.at_most is not None:
        return f"≤ {limit_text(finding.at_most)}"
    if finding is not None and finding.at_least is not None:
        return f"≥ {limit_text(finding.at_least)}"
    return "none"


def table(index: Index) -> Table:
    """Return one row per control cell and detector with the value that the policy requires of it, missing ones last."""
    findings = index.result.verdict.controls
    by_row = {(finding.cell_id, finding.detector): finding for finding in findings}
    rows: list[tuple[str, ...]] = []
    order = {control.value: place for place, control in enumerate(Control)}
    elsewhere = (None, Control.PERTURBED, Control.CHECKPOINT, *MASK_CONTROLS)
    controls_only = [r for r in index.result.crr if r.control not in elsewhere]
    for row in sorted(controls_only, key=lambda r: (r.concept, order.get(str(r.control), 99), r.cell_id)):
        finding = by_row.get((row.cell_id, row.detector))
        rows.append(
            (
                plain(CONTROLS.get(row.control or "", (str(row.control), ""))[0]),
                plain(row.subject),
                defence_name(row),
                plain(row.scenario),
                *index.instrument(row),
                three_counts(row),
                percent(row.rate),
                interval(row.ci_low, row.ci_high),
                required(finding),
                _result(finding),
            )
        )
    rows += [_missing(finding) for finding in findings if finding.cell_id is None]
    return Table(
        "Controls: cases whose answer is known beforehand",
        (
            Column("Control"),
            Column("Sought", minor=2),
            Column("Defence"),
            Column("Scenario", minor=1),
            *INSTRUMENT,
            Column(CASES, "number"),
            Column("Rate", "number", minor=3),
            Column(f"{index.confidence()} interval", "number", minor=4),
            Column("Required", "number"),
            Column("Result", "status"),
        ),
        tuple(rows),
    )


FOOLED = "? takes noise for it"


def _missing(finding: ControlFinding) -> tuple[str, ...]:
    return (
        plain(CONTROLS[finding.control][0]),
        plain(finding.subject),
        defence_name(finding),
        plain(finding.scenario),
        plain(finding.detector),
        *(NOT_AVAILABLE,) * 4,
        required(finding),
        "✕ missing",
    )


def _result(finding: ControlFinding | None) -> str:
    if finding is None or finding.holds is None:
        return "not required"
    if finding.holds:
        return "✓ holds"
    return FOOLED if finding.control in NOISE_CONTROLS else "✕ does not hold"


def section(index: Index) -> Section:
    """Return the controls of a run, with the values that the policy requires of them."""
    rows = table(index)
    masks = mask_controls.table(index)
    tables = tuple(table for table in (rows, masks) if table and table.rows)
    used = dict.fromkeys(row.control for row in index.result.crr if row.control in CONTROLS and not row.perturbation)
    if all(row[-1] == "✕ missing" for row in rows.rows):
        return Section("controls", "Controls", ("This run has no controls, so no rate can be trusted.",), tables=tables)
    results = [row[-1] for row in rows.rows]
    held = [result for result in results if result not in ("not required", FOOLED)]
    broken = sum(not result.startswith("✓") for result in held)
    counted = "An unassessed case counts as a miss, under an upper limit as a hit."
    if not held:
        sentence = "The policy requires nothing of these controls."
    elif broken:
        sentence = f"{count(broken)} of the {count(len(held))} control rows with a required value do not hold it."
    else:
        sentence = f"All {count(len(held))} control rows with a required value hold it."
    sentences = [f"{sentence} {counted}"]
    if FOOLED in results:
        sentences.append(
            "A detector that takes noise for the concept blocks nothing by that: only on a damaged model are its hits on "
            "pictures like none of the un-erased model's unassessed."
        )
    facts = tuple((name, meaning) for key, (name, meaning) in CONTROLS.items() if key in used)
    return Section("controls", "Controls", tuple(sentences), facts=facts, tables=tables)
