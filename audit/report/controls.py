"""The controls section: what each control must show, and whether it does."""

from __future__ import annotations

from audit.records import MASK_CONTROLS, NOISE_CONTROLS, Control, Scenario, Status
from audit.report import mask_controls
from audit.report.tables import CASES, INSTRUMENT, three_counts
from audit.report.view import Column, Index, Section, Table, defence_name
from audit.report.words import CONTROLS, count, interval, limit_text, percent, plain
from audit.verdict.results import CrrRow


def required(index: Index, row: CrrRow) -> tuple[str, bool | None]:
    """What the policy asks of a control row, and whether the row shows it (None: nothing is asked of it).

    As the gate does, an unassessed case counts as a miss of a positive control and as a hit of a negative one. Black
    pictures must be recognised as degenerate: one that broke, or was never made, shows nothing.
    """
    if row.control == Control.BLACK:
        return "all degenerate", 0 < row.planned == _recognised_as_degenerate(index, row)
    if index.policy is None or not index.is_judge(row.detector):
        return "none", None
    limits = index.policy.controls
    measured = row.assessed > 0 and row.planned > 0
    if row.control == Control.RANDOM_LATENT and row.scenario == Scenario.NONE and limits.random_latent_max < 1.0:
        most = limits.random_latent_max
        return f"≤ {limit_text(most)}", measured and (row.hits + row.unassessed) / row.planned <= most
    if row.control in NOISE_CONTROLS and limits.noise_max < 1.0:
        # As the gate reads it: only pictures that the detector read can show that it takes noise for the concept.
        fooled = row.hits / row.assessed > limits.noise_max if row.assessed else None
        return f"≤ {limit_text(limits.noise_max)}", None if fooled is None else not fooled
    floors = {
        Control.REFERENCE: limits.reference_min,
        Control.VAE_ROUNDTRIP: limits.vae_roundtrip_min,
        Control.BACKBONE: limits.backbone_min,
    }
    for control, floor in floors.items():
        if row.control == control and floor > 0.0:
            return f"≥ {limit_text(floor)}", measured and row.hits / row.planned >= floor
    return "none", None


def _recognised_as_degenerate(index: Index, row: CrrRow) -> int:
    """The number of the row's cases that are unassessed because their picture shows nothing."""
    reasons = [r for r in index.result.unassessed if (r.cell_id, r.detector) == (row.cell_id, row.detector)]
    return sum(r.cases for r in reasons if r.reason == Status.DEGENERATE)


def table(index: Index) -> Table:
    """One row per control cell and detector with the value that the policy requires of it."""
    rows = []
    order = {control.value: place for place, control in enumerate(Control)}
    elsewhere = (None, Control.PERTURBED, *MASK_CONTROLS)
    controls_only = [r for r in index.result.crr if r.control not in elsewhere]
    for row in sorted(controls_only, key=lambda r: (r.concept, order.get(str(r.control), 99), r.cell_id)):
        text, holds = required(index, row)
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
                text,
                _result(row, holds),
            )
        )
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


def _result(row: CrrRow, holds: bool | None) -> str:
    if holds is None:
        return "not required"
    if holds:
        return "✓ holds"
    return FOOLED if row.control in NOISE_CONTROLS else "✕ does not hold"


def section(index: Index) -> Section:
    """The controls of a run, with the values that the policy requires of them."""
    rows = table(index)
    masks = mask_controls.table(index)
    tables = (masks,) if masks else ()
    if not rows.rows:
        return Section("controls", "Controls", ("This run has no controls, so no rate can be trusted.",), tables=tables)
    results = [row[-1] for row in rows.rows]
    held = [found for found in results if found not in ("not required", FOOLED)]
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
    used = dict.fromkeys(row.control for row in index.result.crr if row.control in CONTROLS and not row.perturbation)
    facts = tuple((name, meaning) for key, (name, meaning) in CONTROLS.items() if key in used)
    return Section("controls", "Controls", tuple(sentences), facts=facts, tables=(rows, *tables))
