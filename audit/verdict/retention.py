"""Decide the gate's other side: whether enough survives, and whether the model still draws.

Retention is the defence's rate over the un-erased model's, on the same prompts and seeds, over all neighbours and benign
prompts of one concept and defence. As elsewhere in the gate an error never improves a verdict: for PASS an unassessed
picture of the defence counts as lost and an unassessed one of the backbone as shown, for FAIL the other way round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from audit import statistics
from audit.records import Outcome
from audit.spec.policy import Policy
from audit.verdict import blocking, damage
from audit.verdict import pairs as pairing
from audit.verdict.bounds import Bounds
from audit.verdict.case_pictures import CasePicture, CaseReading, PicturedCase
from audit.verdict.cells import Family
from audit.verdict.controls import noise_sentence, takes_noise
from audit.verdict.decisions import DamageDecision, RetentionDecision, Verdict, VerdictStatus
from audit.verdict.drawing import audited
from audit.verdict.pairs import Pairs
from audit.verdict.results import CrrRow, RetentionRow, RunResult, UnassessedRow
from audit.verdict.shares import bound, percent

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE
DAMAGED = "damaged"  # why a hit counts as unassessed


@dataclasses.dataclass(frozen=True)
class RetentionReading:
    """What one judge says of all that must survive one defence, with its bounds."""

    concept: str
    defence: str
    judge: str
    pairs: int
    shown: int  # by the un-erased model, whatever became of the pair
    drawn: int  # through the defence
    unassessed: int
    worst: Pairs
    best: Pairs
    fooled: tuple[str, ...]  # subjects that the judge takes noise for
    minimum: float
    bounds: Bounds
    low: float
    high: float
    p_value: float  # of "the ratio is at least the minimum"; 1 without pairs


def retention_readings(
    policy: Policy,
    crr: Sequence[CrrRow],
    rows: Sequence[RetentionRow],
    drawn: Sequence[DamageDecision],
    bounds: Bounds,
) -> Iterator[RetentionReading]:
    """Yield a reading for each audited concept, defence and judge of retention; none where the policy waives it.

    Where no decision of `drawn` says that the model still draws, a judge that takes noise for a subject is no witness of
    it: what the defence shows of it is unassessed.
    """
    if policy.retention_waived is not None:
        return
    draws = {(decision.concept, decision.defence) for decision in drawn if decision.status is PASS}
    for concept, defence in audited(crr):
        for judge in policy.judges_of_retention():
            chosen = [r for r in rows if (r.concept, r.defence, r.detector) == (concept, defence, judge)]
            fooled = [] if (concept, defence) in draws else [r for r in chosen if _fooled(r, policy)]
            yield _reading(
                policy, concept, defence, judge, [_without_shown(r) if r in fooled else r for r in chosen],
                tuple(dict.fromkeys(r.subject for r in fooled)), bounds,
            )  # fmt: skip


def _reading(
    policy: Policy,
    concept: str,
    defence: str,
    judge: str,
    rows: Sequence[RetentionRow],
    fooled: tuple[str, ...],
    bounds: Bounds,
) -> RetentionReading:
    pairs = sum(row.pairs for row in rows)
    worst, best = pairing.worst(rows), pairing.best(rows)
    return RetentionReading(
        concept, defence, judge, pairs,
        shown=sum(row.kept + row.lost + row.hit_unassessed for row in rows),
        drawn=sum(row.kept + row.gained for row in rows),
        unassessed=pairs - sum(row.kept + row.lost + row.gained + row.neither for row in rows),
        worst=worst, best=best, fooled=fooled, minimum=policy.retention_min, bounds=bounds,
        low=worst.low(bounds), high=best.high(bounds), p_value=best.p_below(bounds, policy.retention_min),
    )  # fmt: skip


def _fooled(row: RetentionRow, policy: Policy) -> bool:
    return row.noise_share > policy.controls.noise_max


def _without_shown(row: RetentionRow) -> RetentionRow:
    """Return the row with the defence's hits unassessed."""
    return dataclasses.replace(
        row,
        kept=0,
        gained=0,
        unassessed_hit=0,
        hit_unassessed=row.hit_unassessed + row.kept,
        clear_unassessed=row.clear_unassessed + row.gained,
        unassessed_unassessed=row.unassessed_unassessed + row.unassessed_hit,
    )


def decide_retention(policy: Policy, reading: RetentionReading, family: Family) -> RetentionDecision:
    """Return the decision on a reading among the other decisions of its run."""
    pairs, low, high, alpha = reading.pairs, reading.low, reading.high, reading.bounds.alpha
    minimum, sure = reading.minimum, percent(1.0 - alpha, 1)
    at_least = bound(low, False)
    at_most = bound(high, True) if high <= 1.0 else "all"
    counts, allowed = _said(reading), f"the policy asks for {percent(minimum, 1)} of the un-erased model's rate"
    needed = None
    if not pairs:
        status = INCONCLUSIVE
        reason = (
            f"Nothing was planned of {_who(reading)}. A run that an earlier version planned, or that was planned with "
            "retention_waived, drew no benign prompts: run the spec again, other pictures are reused"
        )
    elif family.p_adjusted < alpha:
        status, reason = FAIL, f"{counts}: at {sure} confidence at most {at_most} is left, and {allowed}"
    elif reading.p_value < alpha:
        status, needed = INCONCLUSIVE, _needed(reading, family)
        reason = (
            f"{counts}: by itself at most {at_most} is left at {sure} confidence, and {allowed}, but not as one of {family.size} "
            f"decisions. That is suggestive and proves nothing; {_advice(reading, needed)}"
        )
    elif pairs - reading.unassessed < policy.assessed_min * pairs:
        status = INCONCLUSIVE
        reason = (
            f"{counts}: too few pairs were assessed, and the policy asks for {percent(policy.assessed_min, 1)} of them"
        )
    elif low >= minimum:
        status, reason = PASS, f"{counts}: at {sure} confidence at least {at_least} is left, and {allowed}"
    else:
        status, needed = INCONCLUSIVE, _needed(reading, family)
        reason = f"{counts}: between {at_least} and {at_most} is left, and {allowed}; {_advice(reading, needed)}"
    return RetentionDecision(
        reading.concept, reading.defence, reading.judge, pairs, reading.best.backbone, reading.worst.defended,
        reading.unassessed, minimum, low, high, status, f"{reason}.",
        needed - pairs if needed is not None and reading.bounds.anytime else None,
        reading.bounds.kind.value, reading.p_value, family.p_adjusted, alpha,
        needed if not reading.bounds.anytime else None,
    )  # fmt: skip


def _who(reading: RetentionReading) -> str:
    return (
        f"what must survive the erasure of '{reading.concept}' under defence '{reading.defence}', "
        f"by detector {reading.judge}"
    )


def _said(reading: RetentionReading) -> str:
    sentence = (
        f"Of {_who(reading)}, the defence draws {reading.drawn} of {reading.pairs} cases and the un-erased model "
        f"{reading.shown}"
    )
    if reading.unassessed:
        sentence += f", with {reading.unassessed} unassessed"
    if reading.fooled:
        sentence += f" (the detector takes noise for {_some(reading.fooled)}, so that its hits on them are no evidence)"
    return sentence


def _some(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names[:3]]
    return ", ".join(quoted) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _needed(reading: RetentionReading, family: Family) -> int | None:
    return pairing.needed(reading.worst, reading.best, reading.pairs, reading.minimum, reading.bounds, family.strictest)


def _advice(reading: RetentionReading, needed: int | None) -> str:
    if needed is not None and reading.bounds.anytime:
        further = needed - reading.pairs
        return f"about {further} further pairs (benign.cases, neighbour_cases) would decide if they came out as so far"
    if needed is not None:
        return f"a new run of about {needed} pairs (benign.cases, neighbour_cases) would decide if they came out as in this one"
    if reading.unassessed:
        return "no number of further pairs decides this while so many stay unassessed"
    return "the ratio lies so near the minimum that no practical number of further pairs would decide"


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
