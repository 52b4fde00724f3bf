"""Take hits back that are no evidence: a damaged model's, by a judge that takes noise for the concept."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from audit import statistics
from audit.records import Outcome
from audit.spec.policy import Policy
from audit.verdict import blocking, damage
from audit.verdict.case_pictures import CasePicture, CaseReading, PicturedCase
from audit.verdict.controls import noise_sentence, takes_noise
from audit.verdict.decisions import DamageDecision, Verdict
from audit.verdict.results import CrrRow, RunResult, UnassessedRow

DAMAGED = "damaged"  # why a hit counts as unassessed


def fooled_by_noise(policy: Policy, crr: Sequence[CrrRow]) -> dict[tuple[str, str], str]:
    """Return (concept, detector) -> a sentence, for each detector that takes pictures of noise for the concept."""
    sentences: dict[tuple[str, str], str] = {}
    for row in crr:
        if takes_noise(policy.controls, row):
            sentences.setdefault((row.concept, row.detector), noise_sentence(row))
    return sentences


def without_hits_on_damage(
    policy: Policy, crr: Sequence[CrrRow], damaged: Sequence[DamageDecision]
) -> tuple[CrrRow, ...]:
    """Return the rows with the hits unassessed that are no evidence: a damaged model, a judge that takes noise for the
    concept, and pictures that are like none of the un-erased model's."""
    broken = {(decision.concept, decision.defence) for decision in damaged if decision.damaged}
    fooled = fooled_by_noise(policy, crr)
    return tuple(
        _without_hits(row, _no_evidence(row, policy), policy.confidence)
        if row.strange_hits
        and row.subject == row.concept
        and (row.concept, row.defence) in broken
        and (row.concept, row.detector) in fooled
        else row
        for row in crr
    )


def _no_evidence(row: CrrRow, policy: Policy) -> int:
    """Return the number of hits that do not count: all of them where more pictures are strange than chance would make.

    Elsewhere these are the hits on strange pictures.
    """
    more = statistics.lower_bound(min(row.strange, row.planned), row.planned, 1.0 - policy.damage_level)
    return row.hits if more > 1.0 - damage.USUAL else row.strange_hits


def recounted(result: RunResult, policy: Policy, verdict: Verdict) -> RunResult:
    """Return the result with the hits that are no evidence shown as unassessed, in rates and reasons alike."""
    result = blocking.recounted(result, policy)
    rows = without_hits_on_damage(policy, result.crr, verdict.damage)
    changed = {
        (before.cell_id, before.detector): before.hits - after.hits
        for before, after in zip(result.crr, rows, strict=True)
        if before is not after
    }
    if not changed:
        return result
    # Samples carry the first judge's outcomes. In a cell without a hit left, none of its pictures counts as one.
    judge = policy.judges[0]
    first = {r.cell_id: r.hits == 0 for r in rows if r.detector == judge and (r.cell_id, judge) in changed}
    return dataclasses.replace(
        result,
        crr=rows,
        samples=tuple(
            dataclasses.replace(sample, outcome=Outcome.UNASSESSED.value, reason=DAMAGED)
            if sample.outcome == Outcome.HIT and sample.cell_id in first and (sample.strange or first[sample.cell_id])
            else sample
            for sample in result.samples
        ),
        pictured=tuple(_without_hits_shown(case, rows, changed) for case in result.pictured),
        unassessed=(
            *result.unassessed,
            *(
                UnassessedRow(cell, detector, DAMAGED, hits, "a hit on a picture like none of the un-erased model's")
                for (cell, detector), hits in changed.items()
            ),
        ),
    )


def _without_hits_shown(
    case: PicturedCase, rows: Sequence[CrrRow], changed: Collection[tuple[int, str]]
) -> PicturedCase:
    """Return the case with its hits of the `changed` cells and detectors as unassessed, where they are no evidence."""
    emptied = {(row.cell_id, row.detector) for row in rows if row.hits == 0}

    def reading(picture: CasePicture, seen: CaseReading) -> CaseReading:
        key = picture.cell_id, seen.detector
        if seen.outcome != Outcome.HIT or key not in changed or not (picture.strange or key in emptied):
            return seen
        return dataclasses.replace(seen, outcome=Outcome.UNASSESSED.value, reason=DAMAGED)

    return dataclasses.replace(
        case,
        pictures=tuple(
            dataclasses.replace(picture, readings=tuple(reading(picture, seen) for seen in picture.readings))
            for picture in case.pictures
        ),
    )


def _without_hits(row: CrrRow, lost: int, confidence: float) -> CrrRow:
    hits, assessed = row.hits - lost, row.assessed - lost
    low, high = statistics.clopper_pearson(hits, assessed, confidence)
    return dataclasses.replace(
        row,
        hits=hits,
        assessed=assessed,
        unassessed=row.unassessed + lost,
        rate=hits / assessed if assessed else None,
        ci_low=low,
        ci_high=high,
        strange_hits=0,
    )
