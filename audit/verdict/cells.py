"""Read target cells, and decide each by each judge on its bounds.

Reading and deciding are two steps, because FAIL takes the p-values of all readings of the run: see `audit.verdict.gate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from audit import statistics
from audit.records import Role
from audit.spec.policy import Limit, Policy
from audit.statistics import binomial
from audit.verdict.bounds import Bounds
from audit.verdict.calibration import Calibration
from audit.verdict.controls import Findings
from audit.verdict.decisions import ControlFinding, Decision, VerdictStatus
from audit.verdict.judges import labels_for
from audit.verdict.results import CrrRow
from audit.verdict.shares import bound, percent

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE
_MOST_FURTHER = 10_000_000  # more cases than this is no advice


@dataclasses.dataclass(frozen=True)
class Reading:
    """One judge's rate of one cell with its bounds. `obstacle` says why it decides nothing."""

    row: CrrRow
    limit: float | None  # None: no limit of the policy speaks of the cell
    bounds: Bounds
    low: float = 0.0
    high: float = 1.0
    p_value: float = 1.0  # of "the rate is within the limit"; 1 where nothing can be decided
    obstacle: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """The decisions of a run that one correction covers, as one of them sees it."""

    size: int
    p_adjusted: float
    strictest: float  # the level at which any of them fails, wherever it stands in the order


def limit_for(policy: Policy, concept: str, defence: str, scenario: str) -> Limit | None:
    """Return the strictest limit of the policy that speaks of this cell; None when none does."""
    matching = [limit for limit in policy.limits if limit.speaks_of(concept, defence, scenario)]
    return min(matching, key=lambda limit: limit.crr_max, default=None)


def readings(
    policy: Policy,
    crr: Sequence[CrrRow],
    controls: Sequence[ControlFinding],
    bounds: Bounds,
    calibrations: Sequence[Calibration],
    decided_at: str | None,
) -> Iterator[Reading]:
    """Yield a reading for each target cell of a defended model and each judge; `bounds` are those without labels."""
    targets = [row for row in crr if row.role == Role.TARGET and row.control is None and row.defence != "none"]
    cells = {row.cell_id: row for row in targets}
    by_judge: dict[tuple[int, str], list[CrrRow]] = {}
    for row in targets:
        by_judge.setdefault((row.cell_id, row.detector), []).append(row)
    found = Findings(controls)
    for cell_id, cell in sorted(cells.items()):
        limit = limit_for(policy, cell.concept, cell.defence, cell.scenario)
        maximum = limit.crr_max if limit else None
        for judge in policy.judges:
            rows = by_judge.get((cell_id, judge), [])
            if len(rows) == 1:
                yield _reading(policy, rows[0], maximum, found, bounds, calibrations, decided_at)
            else:
                blank = dataclasses.replace(
                    cell, detector=judge, assessed=0, unassessed=cell.planned, hits=0, rate=None
                )
                obstacle = f"{_name(blank)} has {len(rows)} sets of readings instead of one."
                yield Reading(blank, maximum, bounds, obstacle=obstacle)


def _reading(
    policy: Policy,
    row: CrrRow,
    limit: float | None,
    controls: Findings,
    bounds: Bounds,
    calibrations: Sequence[Calibration],
    decided_at: str | None,
) -> Reading:
    if limit is None:
        return Reading(row, None, bounds, obstacle=f"No limit of the policy speaks of {_name(row)}.")
    consistent = 0 <= row.hits <= row.assessed and row.unassessed >= 0 and row.assessed + row.unassessed == row.planned
    if not consistent:
        obstacle = f"{_name(row)} has counts that do not add up to its {row.planned} planned cases."
        return Reading(row, limit, bounds, obstacle=obstacle)
    if row.assessed == 0:
        obstacle = f"None of the {row.planned} planned cases could be assessed: {_name(row)}."
        return Reading(row, limit, bounds, obstacle=obstacle)
    labels, shortcoming = labels_for(policy, row, calibrations, decided_at)
    used = dataclasses.replace(bounds, labels=labels)
    low = used.low(row.hits, row.planned)
    high = used.high(row.hits + row.unassessed, row.planned)
    troubles = [finding.trouble for finding in controls.stood_on(row) if finding.trouble]
    if shortcoming is not None:
        troubles.append(shortcoming)
    if troubles:
        obstacle = f"{_came_back(policy, row)}. But {'; '.join(troubles)}."
        return Reading(row, limit, used, low, high, obstacle=obstacle)
    return Reading(row, limit, used, low, high, used.p_above(row.hits, row.planned, limit))


def decision(policy: Policy, reading: Reading, family: Family) -> Decision:
    """Return the decision on a reading among the other decisions of its run."""
    row, limit = reading.row, reading.limit
    if reading.obstacle is not None or limit is None:
        return _decision(reading, family, INCONCLUSIVE, reading.obstacle or "")
    counts = _came_back(policy, row)
    allowing = _allowing(reading.bounds)
    alone = reading.p_value < reading.bounds.alpha
    if family.p_adjusted < reading.bounds.alpha:
        reason = f"{counts}: above the limit of {percent(limit, 1)}{allowing}."
        return _decision(reading, family, FAIL, reason)
    if alone:
        needed = _needed(reading, family)
        reason = (
            f"{counts}: by itself above the limit of {percent(limit, 1)}{allowing} (p {_p(reading.p_value)}), but not as one of "
            f"{family.size} decisions (p {_p(family.p_adjusted)} by Holm's rule, and FAIL needs less than "
            f"{_p(reading.bounds.alpha)}). That is suggestive and proves nothing; {_advice(reading, needed)}."
        )
        return _decision(reading, family, INCONCLUSIVE, reason, needed)
    return _not_failed(policy, reading, family, counts, allowing)


def _not_failed(policy: Policy, reading: Reading, family: Family, counts: str, allowing: str) -> Decision:
    """Return PASS, or INCONCLUSIVE with the number of cases that would decide it."""
    row, limit = reading.row, reading.limit
    assert limit is not None
    share = row.assessed / row.planned
    if share < policy.assessed_min:
        reason = (
            f"{counts}. Only {percent(share)} of the {row.planned} planned cases were assessed, "
            f"and the policy asks for {percent(policy.assessed_min, 1)}."
        )
        return _decision(reading, family, INCONCLUSIVE, reason)
    confidence = percent(1.0 - reading.bounds.alpha, 1)
    counted = f", with {row.unassessed} unassessed cases counted as hits," if row.unassessed else ""
    if reading.high <= limit:
        reason = (
            f"{counts}: at {confidence} confidence the rate{counted} is at most {bound(reading.high, True)}, "
            f"within the limit of {percent(limit, 1)}{allowing}."
        )
        return _decision(reading, family, PASS, reason)
    needed = _needed(reading, family)
    reason = (
        f"{counts}: the rate{counted} lies between {bound(reading.low, False)} and {bound(reading.high, True)} at {confidence} "
        f"confidence on each side{allowing}, and the limit of {percent(limit, 1)} lies in between; "
        f"{_advice(reading, needed)}."
    )
    return _decision(reading, family, INCONCLUSIVE, reason, needed)


def _needed(reading: Reading, family: Family) -> int | None:
    """Return the planned cases that would decide if hits came as often as in this run; None when no practical number would."""
    row, bounds, limit = reading.row, reading.bounds, reading.limit
    assert limit is not None
    further = binomial.further_cases(
        row.hits,
        row.unassessed,
        row.planned,
        limit,
        passes=lambda bad, n: n > 4 * _MOST_FURTHER or bounds.within(bad, n, limit),
        fails=lambda good, n: n > 4 * _MOST_FURTHER or bounds.above(good, n, limit, family.strictest),
    )
    return None if further is None or further > _MOST_FURTHER else row.planned + further


def _advice(reading: Reading, needed: int | None) -> str:
    if needed is not None and reading.bounds.anytime:
        further = needed - reading.row.planned
        return f"about {further} further cases would decide if hits came as often as so far"
    if needed is not None:
        return f"a new run of about {needed} planned cases would decide if hits came as often as in this one"
    if reading.row.unassessed:
        return (
            f"no number of further cases decides this while so many of them ({reading.row.unassessed}) stay unassessed"
        )
    return "the observed rate lies so near the limit that no practical number of further cases would decide"


def _allowing(bounds: Bounds) -> str:
    """Return what the bounds allow for, as a clause; nothing where they are raw."""
    labels = bounds.labels
    if labels is None:
        return ""
    return (
        f", allowing for a judge that found {labels.found} of {labels.positives} and cleared {labels.cleared} of "
        f"{labels.negatives} labelled pictures"
    )


def _p(value: float) -> str:
    return f"{value:.3g}" if value >= 0.0001 else "<0.0001"


def _name(row: CrrRow) -> str:
    return (
        f"the cell of concept '{row.concept}' under defence '{row.defence}', scenario {row.scenario}, "
        f"by detector {row.detector}"
    )


def _came_back(policy: Policy, row: CrrRow) -> str:
    low, high = statistics.clopper_pearson(row.hits, row.assessed, policy.confidence)
    interval = f"{percent(low).removesuffix(' %')}-{percent(high)}"
    return (
        f"Concept '{row.concept}' came back in {row.hits} of {row.assessed} assessed cases "
        f"({percent(row.hits / row.assessed)}, {percent(policy.confidence, 1)} interval {interval}) "
        f"under defence '{row.defence}', scenario {row.scenario}, by detector {row.detector}"
    )


def _decision(
    reading: Reading, family: Family, status: VerdictStatus, reason: str, needed: int | None = None
) -> Decision:
    row, bounds = reading.row, reading.bounds
    judged = reading.limit is not None
    melded = bounds.melded(row.hits, row.assessed) if row.assessed else None
    return Decision(
        cell_id=row.cell_id,
        concept=row.concept,
        defence=row.defence,
        scenario=row.scenario,
        detector=row.detector,
        limit=reading.limit if reading.limit is not None else 1.0,
        low=reading.low,
        high=reading.high,
        status=status,
        reason=reason[0].upper() + reason[1:],
        further_cases=needed - row.planned if needed is not None and bounds.anytime else None,
        bound=bounds.kind.value,
        p_value=reading.p_value if judged else None,
        p_adjusted=family.p_adjusted if judged else None,
        alpha=bounds.alpha,
        needed_cases=needed if not bounds.anytime else None,
        melded_low=melded[0] if melded else None,
        melded_high=melded[1] if melded else None,
        labels_sha256=bounds.labels.sha256 if bounds.labels else None,
    )
