"""Frozen records of what the gate decides: checks, control findings, decisions, verdict."""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from audit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from audit.verdict.calibration import Calibration


class VerdictStatus(StrEnum):
    """PASS opens the gate. FAIL and INCONCLUSIVE both keep it shut."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this verdict."""
        return {"PASS": EXIT_PASS, "FAIL": EXIT_FAIL}.get(self.value, EXIT_INCONCLUSIVE)


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """One data check. `error` means the check itself could not run, which is not the same as data that failed it."""

    name: str
    source: str  # great-expectations | sql
    status: str  # passed | failed | error
    detail: str
    rows: int  # offending rows


@dataclasses.dataclass(frozen=True)
class ControlFinding:
    """What the policy asks of one control by one detector, and whether the run shows it; see `audit.verdict.controls`."""

    control: str
    concept: str
    subject: str
    defence: str
    scenario: str
    detector: str
    cell_id: int | None  # None: the run has no such control
    at_least: float | None  # share of the planned cases that must show the subject
    at_most: float | None
    holds: bool | None  # None: nothing of it was read
    trouble: str | None  # what it does not show, as a clause of the gate's sentences


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision on one cell by one judge: its bounds, and the number of cases that would decide it."""

    cell_id: int
    concept: str
    defence: str
    scenario: str
    detector: str
    limit: float
    low: float  # one-sided lower bound on the CRR, every unassessed case counted as clear
    high: float  # one-sided upper bound on the CRR, every unassessed case counted as a hit
    status: VerdictStatus
    reason: str
    further_cases: int | None  # that would decide at the observed rate, where the policy lets cases be added; or None
    bound: str = "raw"  # raw | no-credit | anytime | anytime-no-credit; see `audit.verdict.bounds`
    p_value: float | None = None  # of "the rate is within the limit"; None where no limit speaks of the cell
    p_adjusted: float | None = None  # the same, corrected for the run's decisions: FAIL where it is below `alpha`
    alpha: float | None = None  # one-sided error of the bounds, and of FAIL over the whole run
    needed_cases: int | None = None  # planned cases of a new run that would decide at the observed rate
    melded_low: float | None = None  # two-sided interval with the judge's errors taken out, for display
    melded_high: float | None = None
    labels_sha256: str | None = None  # of the labels that the bounds rest on


def stage_words(scenario: str | None, stage_no: int | None) -> str | None:
    """Return a stage of cycles in words; None without a number."""
    return None if stage_no is None else f"{scenario}, stage {stage_no}"


@dataclasses.dataclass(frozen=True)
class RetentionDecision:
    """The decision on all that must survive a defence, or that is drawn at one of its stages in cycles, by one judge."""

    concept: str
    defence: str
    detector: str
    pairs: int
    backbone_hits: int
    defended_hits: int
    unassessed: int  # pairs of which either picture was not assessed
    minimum: float
    low: float  # one-sided bounds on the defence's rate over the backbone's, unassessed pairs counted against the claim
    high: float  # may exceed 1
    status: VerdictStatus
    reason: str
    further_pairs: int | None
    bound: str = "raw"  # raw | anytime
    p_value: float | None = None  # of "the ratio is at least the minimum"
    p_adjusted: float | None = None  # the same, corrected for the run's decisions: FAIL where it is below `alpha`
    alpha: float | None = None  # one-sided error of the bounds, and of FAIL over the whole run
    needed_pairs: int | None = None  # of a new run that would decide if they came out as in this one
    scenario: str | None = None  # of cycles, one of whose stages it is on; None: on the defence's model itself
    stage_no: int | None = None

    @property
    def stage(self) -> str | None:
        """The stage of cycles that it is on, in words; None for the defence's model itself."""
        return stage_words(self.scenario, self.stage_no)


@dataclasses.dataclass(frozen=True)
class DamageDecision:
    """The decision on a defence's benign pictures as pictures. Damage is INCONCLUSIVE, its absence PASS."""

    concept: str
    defence: str
    instrument: str
    pictures: int
    distance: float | None
    reference: float | None
    p_value: float | None
    level: float
    damaged: bool
    status: VerdictStatus
    reason: str


@dataclasses.dataclass(frozen=True)
class BlockingDecision:
    """The decision on the share of pictures that a defence's filters block: of benign prompts, or of an audited cell."""

    concept: str
    defence: str
    scenario: str | None  # of an audited cell; None for benign prompts
    detector: str  # the filters' names: they stand where a judge does
    cell_id: int | None
    planned: int
    blocked: int
    undecided: int
    limit: float
    low: float  # one-sided lower bound, every undecided case counted as let pass
    high: float  # one-sided upper bound, every undecided case counted as blocked
    status: VerdictStatus
    reason: str
    bound: str = "raw"  # raw | anytime
    p_value: float | None = None  # of "the share is within the limit"; None where it cannot be decided
    p_adjusted: float | None = None
    alpha: float | None = None
    needed_cases: int | None = None


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a verdict rests on beside the run's numbers and the policy."""

    attempt: int = 1  # at the same claim: runs of the same models under the same policy, this one included
    calibrations: tuple[Calibration, ...] = ()
    decided_at: str | None = None  # ISO 8601, UTC; labels are of no known age without it


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The end of a run."""

    status: VerdictStatus
    reasons: tuple[str, ...]
    decisions: tuple[Decision, ...]
    checks: tuple[CheckResult, ...]
    retention: tuple[RetentionDecision, ...] = ()
    damage: tuple[DamageDecision, ...] = ()
    waivers: tuple[str, ...] = ()  # what the policy does not judge, each with its reason; stands beside the verdict
    controls: tuple[ControlFinding, ...] = ()
    attempt_sentence: str = ""  # what the number of attempts means for the error; empty for the first
    basis: Basis = Basis()
    blocking: tuple[BlockingDecision, ...] = ()  # of defences with filters

    @property
    def attempt(self) -> int:
        """The number of the attempt at the same claim, from 1."""
        return self.basis.attempt
