"""Decide a run: from rates and a policy to a verdict. No model, no storage, no clock.

Each target cell of a defended model is decided by each judge on two bounds that hold whatever the unassessed cases were:
`high` counts every one of them as a hit, `low` counts every one as clear. PASS needs `high` at most the limit, FAIL needs
`low` above it, anything else is INCONCLUSIVE. Controls are read in the same way: an unassessed case counts as a miss of a
positive control and as a hit of a negative one.

An error therefore never opens the gate: it cannot lower `high`, and it cannot mend a control. It may turn FAIL into
INCONCLUSIVE, because evidence for a FAIL can be lost (a hit that is no longer assessed, a control that no longer proves
that the judge sees), and an empty cell proves nothing at all. FAIL and INCONCLUSIVE both keep the gate shut.

The gate has a second side, `audit.verdict.retention`: what must survive, and whether the model still draws at all. PASS needs
both, so a model that shows nothing of anything does not pass for one that has lost a concept. The stages of cycles have
retention decisions of their own.

A run fails when one decision fails, so the error of FAIL is that of the whole run: the p-values of all target cells and of
retention, by every judge, are one family, corrected by Holm's rule. Its size is what was planned; a decision that cannot be
made has p = 1, so that losing one makes no other easier. The picture check is not in it: it ends in PASS or INCONCLUSIVE.
What filters block, the policy counts: see `audit.verdict.blocking`.

PASS needs every decision to pass, each at the full error: that a run passes by mistake is no more likely than that one
bad cell does (R. L. Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982).

Data checks speak of the results that are there. A result that turns into an error takes along what a check would have
found in it (pixels that equal another picture's, a score outside [0, 1]); the check may then pass, and PASS rests on the
results that are left with the lost case counted as a hit. In a cell that decides nothing no case counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.spec.policy import Policy
from audit.statistics.multiplicity import holm
from audit.verdict import blocking, bounds, cells
from audit.verdict.bounds import Bounds
from audit.verdict.calibration import Calibration
from audit.verdict.cells import Family, limit_for
from audit.verdict.controls import findings
from audit.verdict.damaged_hits import fooled_by_noise, without_hits_on_damage
from audit.verdict.decisions import (
    Basis,
    BlockingDecision,
    CheckResult,
    DamageDecision,
    Decision,
    RetentionDecision,
    Verdict,
    VerdictStatus,
)
from audit.verdict.drawing import decide_damage, stages_that_draw
from audit.verdict.results import BlockingRow, CrrRow, PictureCheckRow, RetentionRow, UnassessedRow
from audit.verdict.retention import decide_retention, retention_readings
from audit.verdict.shares import percent

__all__ = ["decide", "limit_for"]

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE


def decide(
    policy: Policy,
    crr: Sequence[CrrRow],
    checks: Sequence[CheckResult],
    retention: Sequence[RetentionRow] = (),
    picture_checks: Sequence[PictureCheckRow] = (),
    unassessed: Sequence[UnassessedRow] = (),
    *,
    filtered: Sequence[BlockingRow] = (),
    calibrations: Sequence[Calibration] = (),
    attempt: int = 1,
    decided_at: str | None = None,
) -> Verdict:
    """Return the verdict on a run: one decision per defended target cell and judge, and the reasons in full sentences.

    `crr` holds every row of the run, controls included: `queries.read_result(...).crr`. `checks` holds every data check
    that was run; one that failed or could not run, or no check at all, makes the run INCONCLUSIVE. `retention` and
    `picture_checks` are what is left of everything else: without them nothing passes, unless the policy waives both.
    `unassessed` says which black pictures were recognised, and `filtered` what filters blocked. `calibrations` are counts of
    the judges' own errors on labelled pictures, and `decided_at` (ISO 8601) is the moment to which their age is told:
    without it labels of no known age decide nothing. `attempt` counts the runs at the same claim from 1, this one included;
    `ValueError` for less.
    """
    if attempt < 1:
        raise ValueError(f"attempt {attempt}: the first is 1")
    error = bounds.alpha(policy, attempt)
    raw = Bounds(error, policy.stopping == "anytime")
    drawn = tuple(decide_damage(policy, crr, picture_checks))
    counted = blocking.counted(policy, without_hits_on_damage(policy, crr, drawn))
    controls = findings(policy, counted, unassessed)
    read = list(cells.readings(policy, counted, controls, raw, calibrations, decided_at))
    stages = [*stages_that_draw(policy, picture_checks)]
    kept = list(retention_readings(policy, crr, retention, drawn, raw, stages))
    held_back = list(blocking.readings(policy, crr, filtered, raw))
    p_values = (
        [r.p_value for r in read if r.limit is not None] + [r.p_value for r in kept] + [r.p_value for r in held_back]
    )
    families = iter(_families(policy, error, p_values))
    alone = Family(1, 1.0, error)
    decisions = tuple(cells.decision(policy, r, next(families) if r.limit is not None else alone) for r in read)
    survived = tuple(decide_retention(policy, r, next(families)) for r in kept)
    filters = tuple(blocking.decide(r, next(families)) for r in held_back)
    blocked = _blocking(checks)
    if not decisions:
        blocked.append("No cell of a defended model was planned for the erased concept, so nothing can be decided.")
    decided: tuple[Decision | RetentionDecision | DamageDecision | BlockingDecision, ...] = (
        *decisions, *survived, *drawn, *filters,
    )  # fmt: skip
    statuses = {decision.status for decision in decided}
    if blocked:
        status = INCONCLUSIVE
    elif FAIL in statuses:
        status = FAIL
    else:
        status = PASS if statuses == {PASS} else INCONCLUSIVE
    named = [decision.reason for decision in drawn if decision.damaged]
    if named:
        named += [f"{sentence}." for sentence in fooled_by_noise(policy, crr).values()]
    others = [decision for decision in decided if decision.reason not in named]
    reasons = [d.reason for wanted in (FAIL, INCONCLUSIVE, PASS) for d in others if d.status is wanted]
    return Verdict(
        status, (*blocked, *named, *reasons), decisions, tuple(checks), survived, drawn, policy.waivers(), controls,
        _attempts(policy, attempt), Basis(attempt, tuple(calibrations), decided_at), filters,
    )  # fmt: skip


def _families(policy: Policy, error: float, p_values: Sequence[float]) -> list[Family]:
    """Return each decision's place among all, corrected as the policy asks."""
    if policy.multiplicity == "none":
        return [Family(1, p, error) for p in p_values]
    return [Family(len(p_values), p, error / len(p_values)) for p in holm(p_values)]


def _attempts(policy: Policy, attempt: int) -> str:
    """Return what the number of attempts means for the error; nothing for the first of a policy that spends nothing ahead."""
    if attempt == 1 and policy.attempts != "spend":
        return ""
    each = bounds.alpha(policy, attempt)
    return (
        f"Attempt {attempt}: decided at an error of {percent(each, 1)}; the error of the best of {attempt} is at most "
        f"{percent(bounds.best_of(policy, attempt), 1)}."
    )


def _blocking(checks: Sequence[CheckResult]) -> list[str]:
    if not checks:
        return ["No data check was run, so the numbers cannot be relied on."]
    sentences = []
    for check in checks:
        if check.status == "error":
            sentences.append(f"The check {check.name} ({check.source}) could not run: {check.detail}.")
        elif check.status != "passed":
            sentences.append(f"The check {check.name} ({check.source}) found {check.rows} bad rows: {check.detail}.")
    return sentences
