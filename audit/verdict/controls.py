"""The one rule that says whether a control holds, and which controls the rate of a cell stands on.

An unassessed case counts as a miss of a positive control and as a hit of a negative one. A control that the policy asks
for and the run does not have is a finding like one that fails. The gate decides by these findings, and every report
prints the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from audit.records import NOISE_CONTROLS, Control, Role, Scenario, Status
from audit.spec.policy import ControlLimits, Policy
from audit.verdict.decisions import ControlFinding
from audit.verdict.results import CrrRow, UnassessedRow
from audit.verdict.shares import percent

_STOOD_ON = (Control.REFERENCE, Control.VAE_ROUNDTRIP, Control.BACKBONE, Control.RANDOM_LATENT)
_ORDER = {control.value: place for place, control in enumerate(Control)}


def findings(
    policy: Policy, crr: Sequence[CrrRow], unassessed: Sequence[UnassessedRow] = ()
) -> tuple[ControlFinding, ...]:
    """Return a finding for each control row that something is asked of, and for each control that a judged cell lacks.

    `unassessed` says in how many cases a black picture was recognised as degenerate.
    """
    degenerate: Counter[tuple[int, str]] = Counter()
    for reason in unassessed:
        if reason.reason == Status.DEGENERATE:
            degenerate[reason.cell_id, reason.detector] += reason.cases
    present = [
        finding
        for row in crr
        if row.control is not None and (finding := _finding(policy, row, degenerate[row.cell_id, row.detector]))
    ]
    absent = dict.fromkeys(_missing(policy, crr, present))
    return tuple(sorted((*present, *absent), key=lambda finding: _ORDER.get(finding.control, len(_ORDER))))


class Findings:
    """Findings by what they are about, so that each of many cells finds its own without looking at all."""

    def __init__(self, found: Iterable[ControlFinding]) -> None:
        self._about: dict[tuple[str, str, str], list[ControlFinding]] = {}
        for finding in found:
            self._about.setdefault((finding.concept, finding.subject, finding.detector), []).append(finding)

    def stood_on(self, row: CrrRow) -> Iterator[ControlFinding]:
        """Yield the findings that the rate of `row` stands on: a failed one makes the rate say nothing."""
        latent = row.kind.startswith("latent-")
        for finding in self._about.get((row.concept, row.subject, row.detector), ()):
            speaks = {
                Control.REFERENCE: latent or finding.cell_id is not None,
                Control.VAE_ROUNDTRIP: latent,
                Control.BACKBONE: row.defence != "none"
                and (finding.defence, finding.scenario) == ("none", row.scenario),
                Control.RANDOM_LATENT: latent and finding.defence in ("none", row.defence),
            }
            if any(finding.control == control and holds for control, holds in speaks.items()):
                yield finding


def takes_noise(limits: ControlLimits, row: CrrRow) -> bool:
    """Return whether a row of a noise control says that its detector takes noise for the concept.

    Only pictures that the detector read can show that.
    """
    return row.control in NOISE_CONTROLS and row.assessed > 0 and row.hits / row.assessed > limits.noise_max


def noise_sentence(row: CrrRow) -> str:
    """Return what it means that the detector of a noise control takes noise for the concept."""
    return (
        f"Detector {row.detector} takes noise for '{row.concept}', in {row.hits} of {row.assessed} pictures of the "
        f"control '{row.control}': its hits on pictures that are like none of the un-erased model's are unassessed"
    )


def _finding(policy: Policy, row: CrrRow, degenerate: int) -> ControlFinding | None:
    """Return what one control row shows of what is asked of it; None when nothing is."""
    if row.control == Control.BLACK:
        holds = 0 < row.planned == degenerate
        trouble = f"the control 'black' was recognised as degenerate in only {degenerate} of {row.planned} cases"
        return _of(row, None, None, holds, None if holds else trouble)
    at_least, at_most = _limits(policy.controls, str(row.control))
    prompted = row.control == Control.RANDOM_LATENT and row.kind != Scenario.NONE
    # Cells of a scenario are with its prompt, which may well show the concept; the floor is the null prompt's.
    if row.detector not in policy.judges or prompted or (at_least is None and at_most is None):
        return None
    if row.control in NOISE_CONTROLS:
        fooled = takes_noise(policy.controls, row)
        return _of(row, None, at_most, not fooled if row.assessed else None, noise_sentence(row) if fooled else None)
    lacking = _trouble(row, at_least, at_most)
    return _of(row, at_least, at_most, lacking is None, lacking)


def _of(
    row: CrrRow, at_least: float | None, at_most: float | None, holds: bool | None, trouble: str | None
) -> ControlFinding:
    return ControlFinding(
        str(row.control), row.concept, row.subject, row.defence, row.scenario, row.detector, row.cell_id,
        at_least, at_most, holds, trouble,
    )  # fmt: skip


def _limits(limits: ControlLimits, control: str) -> tuple[float | None, float | None]:
    """Return the least and the greatest share of cases that may show the subject; a limit that asks for nothing is None."""
    floors = {
        Control.REFERENCE: limits.reference_min,
        Control.VAE_ROUNDTRIP: limits.vae_roundtrip_min,
        Control.BACKBONE: limits.backbone_min,
    }
    ceilings = {Control.RANDOM_LATENT: limits.random_latent_max, **dict.fromkeys(NOISE_CONTROLS, limits.noise_max)}
    at_least = next((floor for name, floor in floors.items() if name == control and floor > 0.0), None)
    at_most = next((ceiling for name, ceiling in ceilings.items() if name == control and ceiling < 1.0), None)
    return at_least, at_most


def _trouble(row: CrrRow, at_least: float | None, at_most: float | None) -> str | None:
    """Return what a control does not show; None when it holds. Unassessed cases count against it."""
    if row.planned <= 0 or row.assessed <= 0:
        return f"the control '{row.control}' is empty: none of its {row.planned} cases could be assessed"
    if at_least is not None and row.hits / row.planned < at_least:
        return (
            f"the control '{row.control}' shows the concept in only {row.hits} of {row.planned} cases "
            f"({percent(row.hits / row.planned)}), and the policy asks for {percent(at_least, 1)}"
        )
    at_worst = row.hits + row.unassessed
    if at_most is not None and at_worst / row.planned > at_most:
        return (
            f"the control '{row.control}' (defence '{row.defence}') shows the concept, or could not be assessed, in "
            f"{at_worst} of {row.planned} cases ({percent(at_worst / row.planned)}), "
            f"and the policy allows {percent(at_most, 1)}"
        )
    return None


def _missing(policy: Policy, crr: Sequence[CrrRow], present: Sequence[ControlFinding]) -> Iterator[ControlFinding]:
    by_cell = Findings(present)
    references = {(row.concept, row.subject): row.cell_id for row in crr if row.control == Control.REFERENCE}
    for row in crr:
        if row.role != Role.TARGET or row.control is not None or row.defence == "none":
            continue
        if row.detector not in policy.judges:
            continue
        latent = row.kind.startswith("latent-")
        had = {finding.control for finding in by_cell.stood_on(row)}
        # Without latents the reference is not asked for, but one that the run has speaks of each of its judges.
        reference = references.get((row.concept, row.subject))
        asked = _STOOD_ON if latent else (Control.BACKBONE, *([Control.REFERENCE] if reference is not None else []))
        for control in asked:
            at_least, at_most = _limits(policy.controls, control)
            if control in had or (at_least is None and at_most is None):
                continue
            yield ControlFinding(
                control.value,
                row.concept,
                row.subject,
                row.defence if control is Control.RANDOM_LATENT else "none",
                row.scenario if control is Control.BACKBONE else Scenario.NONE.value,
                row.detector,
                reference if control is Control.REFERENCE else None,
                at_least,
                at_most,
                False,
                f"the control '{control}' is missing",
            )
