"""Say which decisions of a verdict signed waivers cover. A waiver changes no status: what failed has failed.

A waiver accepts a risk that was measured. So a FAIL can be waived, of a cell or of what must survive, and an INCONCLUSIVE whose
bounds lie around the limit. Nothing that was not measured can: a run whose data checks did not pass or that decided nothing, a
cell of which no case was assessed, an undecided one of which fewer were assessed than the policy asks for, one whose controls do
not hold, one whose judge's own errors are not known as well as the policy asks, and a damaged model.

Signatures are not checked here; `audit.evidence.waivers` does, and gives only waivers whose signatures hold.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Literal, TypeAlias

from audit.spec.policy import Policy
from audit.verdict.controls import Findings
from audit.verdict.decisions import (
    BlockingDecision,
    DamageDecision,
    Decision,
    RetentionDecision,
    Verdict,
    VerdictStatus,
)
from audit.verdict.judges import labels_for
from audit.verdict.record import policy_sha256
from audit.verdict.results import CrrRow
from audit.verdict.shares import percent

MOST_DAYS = 90
AnyDecision: TypeAlias = Decision | RetentionDecision | DamageDecision | BlockingDecision
Side = Literal["reproduction", "retention"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """The decisions that a waiver speaks of: those of one side of the gate that have every value that is given.

    What survives at a stage of cycles is only spoken of by a selection that names their scenario.
    """

    side: Side = "reproduction"
    concept: str | None = None
    defence: str | None = None
    scenario: str | None = None
    judge: str | None = None

    def covers(self, decision: AnyDecision) -> bool:
        """Return whether a decision is one of those."""
        side = {Decision: "reproduction", RetentionDecision: "retention"}.get(type(decision))
        if side != self.side:
            return False
        values = {"scenario": getattr(decision, "scenario", None), "judge": getattr(decision, "detector", None)}
        values |= {"concept": decision.concept, "defence": decision.defence}
        if isinstance(decision, RetentionDecision) and decision.scenario is not None and self.scenario is None:
            return False
        wanted = {name: getattr(self, name) for name in values}
        return all(value is None or values[name] == value for name, value in wanted.items())

    def __str__(self) -> str:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ",".join(f"{name}={value}" for name, value in fields.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class Waiver:
    """A waiver whose signature holds."""

    name: str  # of its file
    run_id: str
    policy_sha256: str
    cells: tuple[Selection, ...]
    reason: str
    owner: str
    approver: str
    compensating_control: str
    since: dt.datetime
    until: dt.datetime  # its last moment

    @property
    def date(self) -> str:
        """The last day on which it counts."""
        return f"{self.until:%Y-%m-%d}"


@dataclasses.dataclass(frozen=True)
class Waived:
    """A decision that is not PASS, and the waiver that covers it."""

    decision: AnyDecision
    waiver: Waiver

    @property
    def status(self) -> str:
        """The decision's own status, with the waiver beside it."""
        return f"{self.decision.status.value} (waived until {self.waiver.date})"

    def __str__(self) -> str:
        who = f"owner {self.waiver.owner}, approved by {self.waiver.approver}"
        why = f"{self.waiver.reason}; compensating control: {self.waiver.compensating_control}"
        return f"{self.status}  {name_of(self.decision)}  {who}: {why} ({self.waiver.name})"


@dataclasses.dataclass(frozen=True)
class Honoured:
    """What waivers do for a verdict: decisions that they cover, sentences on the others, and on waivers that do not count."""

    waived: tuple[Waived, ...]
    uncovered: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def opens(self) -> bool:
        """Whether every decision that is not PASS is covered, and there is one."""
        return bool(self.waived) and not self.uncovered


def honoured(
    verdict: Verdict,
    waivers: Sequence[Waiver],
    now: dt.datetime,
    *,
    run_id: str,
    policy: Policy,
    crr: Sequence[CrrRow],
) -> Honoured:
    """Return what `waivers` do at `now` for the verdict on a run under `policy`; `crr` are the run's rates.

    A waiver that has expired, that is of another run or policy, or that covers nothing is as if it were absent.
    """
    counting, ignored, digest = [], [], policy_sha256(policy)
    for waiver in waivers:
        problem = not_counting(waiver, now, run_id, digest)
        ignored += [f"{waiver.name} does not count: {problem}"] if problem else []
        counting += [] if problem else [waiver]
    decided: tuple[AnyDecision, ...] = (
        *verdict.decisions, *verdict.retention, *verdict.damage, *verdict.blocking,
    )  # fmt: skip
    failing = [decision for decision in decided if decision.status is not VerdictStatus.PASS]
    waived: list[Waived] = []
    uncovered = list(_cannot_be_waived_at_all(verdict))
    for decision in failing:
        trouble = _unmeasured(decision, verdict, policy, crr)
        covering = [waiver for waiver in counting if any(cells.covers(decision) for cells in waiver.cells)]
        if trouble is not None:
            uncovered.append(f"{decision.status.value}  {name_of(decision)}  cannot be waived: {trouble}")
        elif not covering:
            uncovered.append(f"{decision.status.value}  {name_of(decision)}  no waiver covers it")
        else:
            waived.append(Waived(decision, max(covering, key=lambda waiver: waiver.until)))
    for waiver in counting:
        if not any(cells.covers(decision) for cells in waiver.cells for decision in failing):
            ignored.append(f"{waiver.name} does not count: it is for {_listed(waiver)}, and nothing of that has failed")
    return Honoured(tuple(waived), tuple(uncovered), tuple(ignored))


def name_of(decision: AnyDecision) -> str:
    """Return the words by which a decision is told from the others of its run."""
    at = decision.stage if isinstance(decision, RetentionDecision) else getattr(decision, "scenario", None)
    names = [decision.concept, decision.defence, at]
    judge = decision.instrument if isinstance(decision, DamageDecision) else decision.detector
    sides = {RetentionDecision: ["retention"], DamageDecision: ["damage"], BlockingDecision: ["blocked"]}
    side = sides.get(type(decision), [])
    return " | ".join([*side, *(name for name in names if name is not None), judge])


def _listed(waiver: Waiver) -> str:
    return " and ".join(str(cells) for cells in waiver.cells)


def not_counting(waiver: Waiver, now: dt.datetime, run_id: str, digest: str) -> str | None:
    """Return why a waiver is as if it were absent, for a run under the policy of this digest; None when it counts."""
    if waiver.run_id != run_id:
        return f"it is for run {waiver.run_id}"
    if waiver.policy_sha256 != digest:
        return f"it was given under another policy ({waiver.policy_sha256[:16]}...), and this one is {digest[:16]}..."
    if now > waiver.until:
        return f"it expired on {waiver.date}"
    if now < waiver.since:
        return f"it counts from {waiver.since.isoformat()} on; check this machine's clock"
    if waiver.until - waiver.since > dt.timedelta(days=MOST_DAYS + 1):
        return f"it is for more than {MOST_DAYS} days"
    return None


def _cannot_be_waived_at_all(verdict: Verdict) -> list[str]:
    bad = [check.name for check in verdict.checks if check.status != "passed"]
    if not verdict.checks or bad:
        which = f"the data checks {', '.join(bad)} did not pass" if bad else "no data check was run"
        return [f"{verdict.status.value}  the run  cannot be waived: {which}, so the numbers cannot be relied on"]
    if not verdict.decisions:
        return [f"{verdict.status.value}  the run  cannot be waived: no cell was decided"]
    return []


def _unmeasured(decision: AnyDecision, verdict: Verdict, policy: Policy, crr: Sequence[CrrRow]) -> str | None:
    """Return why there is no measured risk that somebody could accept; None when there is one."""
    if isinstance(decision, DamageDecision):
        return "a damaged model, or one of which that is not known, says nothing of the concept"
    if isinstance(decision, BlockingDecision):
        return "what filters block counts as clear only while they let other pictures pass"
    undecided = decision.status is VerdictStatus.INCONCLUSIVE
    if isinstance(decision, RetentionDecision):
        assessed = decision.pairs - decision.unassessed
        if assessed <= 0:
            return "no pair of pictures was assessed"
        return _too_few(policy, assessed, decision.pairs, "pairs of pictures") if undecided else None
    rows = [row for row in crr if (row.cell_id, row.detector) == (decision.cell_id, decision.detector)]
    if len(rows) != 1 or rows[0].assessed <= 0 or (decision.low, decision.high) == (0.0, 1.0):
        return "it was not measured"
    if undecided and (few := _too_few(policy, rows[0].assessed, rows[0].planned, "planned cases")):
        return few
    troubles = [finding.trouble for finding in Findings(verdict.controls).stood_on(rows[0]) if finding.trouble]
    _, shortcoming = labels_for(policy, rows[0], verdict.basis.calibrations, verdict.basis.decided_at)
    troubles += [shortcoming] if shortcoming is not None else []
    return troubles[0] if troubles else None


def _too_few(policy: Policy, assessed: int, planned: int, what: str) -> str | None:
    """Return why so few assessed cases are no measurement by the policy; None when they are one."""
    if assessed >= policy.assessed_min * planned:
        return None
    return (
        f"only {assessed} of {planned} {what} were assessed, and the policy asks for {percent(policy.assessed_min, 1)}"
    )
