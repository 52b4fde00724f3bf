"""Decide the gate's other side: whether enough survives, and whether the model still draws.

Retention is the defence's rate over the un-erased model's, on the same prompts and seeds, over all neighbours and benign
prompts of one concept and defence. Where the defence is edited and erased in cycles, each stage is decided in the same way on
what is drawn there, against the un-erased model before any edit. As elsewhere in the gate an error never improves a
verdict: for PASS an unassessed picture of the defence counts as lost and an unassessed one of the backbone as shown, for
FAIL the other way round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from audit.records import Scenario, stage_name
from audit.spec.policy import Policy
from audit.verdict import pairs as pairing
from audit.verdict.bounds import Bounds
from audit.verdict.cells import Family
from audit.verdict.decisions import DamageDecision, RetentionDecision, VerdictStatus
from audit.verdict.drawing import audited
from audit.verdict.pairs import Pairs
from audit.verdict.results import CrrRow, RetentionRow
from audit.verdict.shares import bound, percent

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE


class Stage(NamedTuple):
    """A stage of a scenario of cycles; odd ones are edited, even ones erased."""

    scenario: str
    number: int


@dataclasses.dataclass(frozen=True)
class RetentionReading:
    """What one judge says of all that must survive one defence, or is drawn at one of its stages, with its bounds."""

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
    stage: Stage | None = None  # None: the defence's model itself


def retention_readings(
    policy: Policy,
    crr: Sequence[CrrRow],
    rows: Sequence[RetentionRow],
    drawn: Sequence[DamageDecision],
    bounds: Bounds,
    drawing: Collection[tuple[str, str, str, int]] = (),
) -> Iterator[RetentionReading]:
    """Yield a reading for each audited concept, defence and judge of retention, and for each of the defence's stages in cycles
    at which anything that must survive was planned; none where the policy waives it.

    Where no decision of `drawn` says that the model still draws, a judge that takes noise for a subject is no witness of
    it: what the defence shows of it is unassessed. `drawing` are the stages, by concept, defence, scenario and number, of
    which a picture check says so; stage 0 is the defence's own model.
    """
    if policy.retention_waived is not None:
        return
    draws = {(decision.concept, decision.defence) for decision in drawn if decision.status is PASS}
    for concept, defence in audited(crr):
        for stage in (None, *_stages(policy, crr, concept, defence)):
            known = (concept, defence) in draws and (stage is None or stage.number == 0)
            known = known or (stage is not None and (concept, defence, *stage) in drawing)
            for judge in policy.judges_of_retention():
                key = (concept, defence, judge, *(stage or (None, None)))
                chosen = [r for r in rows if (r.concept, r.defence, r.detector, r.scenario, r.stage_no) == key]
                fooled = [] if known else [r for r in chosen if _fooled(r, policy)]
                yield _reading(
                    policy, concept, defence, judge, [_without_shown(r) if r in fooled else r for r in chosen],
                    tuple(dict.fromkeys(r.subject for r in fooled)), bounds, stage,
                )  # fmt: skip


def _stages(policy: Policy, crr: Sequence[CrrRow], concept: str, defence: str) -> list[Stage]:
    """Return the stages of a defence that the policy judges: those that the plan has anything but the concept of."""
    planned = {
        Stage(row.scenario, int(row.strength))
        for row in crr
        if row.kind == Scenario.CYCLES and row.strength is not None and row.subject != row.concept
        if (row.concept, row.defence) == (concept, defence)
    }
    return sorted(stage for stage in planned if policy.retention_stages == "every" or stage.number % 2 == 0)


def _reading(
    policy: Policy,
    concept: str,
    defence: str,
    judge: str,
    rows: Sequence[RetentionRow],
    fooled: tuple[str, ...],
    bounds: Bounds,
    stage: Stage | None,
) -> RetentionReading:
    pairs = sum(row.pairs for row in rows)
    worst, best = pairing.worst(rows), pairing.best(rows)
    return RetentionReading(
        concept, defence, judge, pairs,
        shown=sum(row.kept + row.lost + row.hit_unassessed for row in rows),
        drawn=sum(row.kept + row.gained for row in rows),
        unassessed=pairs - sum(row.kept + row.lost + row.gained + row.neither for row in rows),
        worst=worst, best=best, fooled=fooled, minimum=policy.retention_min, bounds=bounds,
        low=worst.low(bounds), high=best.high(bounds), p_value=best.p_below(bounds, policy.retention_min), stage=stage,
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
        status, reason = INCONCLUSIVE, f"Nothing was planned of {_who(reading)}. {_missing(reading)}"
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
        needed if not reading.bounds.anytime else None, *(reading.stage or (None, None)),
    )  # fmt: skip


def _missing(reading: RetentionReading) -> str:
    if reading.stage is not None:
        return "The detector has no counting rule for what is drawn there: let another one judge retention (retention_judges)"
    return (
        "A run that an earlier version planned, or that was planned with retention_waived, drew no benign prompts: run the "
        "spec again, other pictures are reused"
    )


def _who(reading: RetentionReading) -> str:
    model = f"the erasure of '{reading.concept}' under defence '{reading.defence}'"
    if reading.stage is not None:
        scenario, number = reading.stage
        model += f" at stage {number} of {scenario} ({stage_name(number)})"
    return f"what must survive {model}, by detector {reading.judge}"


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
    fields = "benign.cases, neighbour_cases"
    if reading.stage is not None:
        fields = f"neighbour_cases, benign_cases of {reading.stage.scenario}"
    if needed is not None and reading.bounds.anytime:
        further = needed - reading.pairs
        return f"about {further} further pairs ({fields}) would decide if they came out as so far"
    if needed is not None:
        return f"a new run of about {needed} pairs ({fields}) would decide if they came out as in this one"
    if reading.unassessed:
        return "no number of further pairs decides this while so many stay unassessed"
    return "the ratio lies so near the minimum that no practical number of further pairs would decide"
