"""The rows of a monthly report, as values."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunRow:
    """A run of the month and the newest decision on it, whose fields are None or empty while there is none."""

    run_id: str
    name: str
    created_at: str
    system_version: str | None
    owner: str | None
    contact: str | None
    backbone_sha256: str | None
    corpus_sha256: str | None
    audited_sha256: str
    plan_sha256: str
    cells: int
    cases: int
    units: int
    units_complete: int
    units_failed: int
    unassessed: int  # readings of audited cells that there are none of, over all detectors
    decisions: int  # on record
    decision_sha256: str | None
    decided_at: str | None
    decided_by: str | None
    command: str | None
    policy_version: str | None
    policy_sha256: str | None
    planned_policy_sha256: str | None  # of the plan's own policy; None when this version cannot read it
    attempt: int | None
    status: str | None
    reasons: tuple[str, ...]
    not_judged: tuple[str, ...]  # sides of the gate that the policy waives, each with its reason
    opened_by: tuple[str, ...]
    earlier_statuses: tuple[str, ...]  # of the decisions before the newest, oldest first

    @property
    def replanned(self) -> bool:
        """Return whether it was decided by another policy than it was planned with."""
        return self.policy_sha256 is not None and self.policy_sha256 != self.planned_policy_sha256


@dataclasses.dataclass(frozen=True)
class Audit:
    """The runs of one name: the newest decided one of the month stands for it, beside that of the month before."""

    name: str
    run_id: str
    previous_run_id: str | None


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """The decision on one cell by one judge, with its counts."""

    run_id: str
    cell_id: int
    concept: str
    defence: str
    scenario: str
    kind: str
    access: str  # what whoever attacks controls
    judge: str
    planned: int
    assessed: int
    hits: int
    rate: float | None
    interval_low: float
    interval_high: float
    calibrated: bool  # whether the judge's errors are taken out of the interval
    bound: str  # raw | no-credit | anytime | anytime-no-credit
    low: float | None
    high: float | None
    limit: float
    status: str
    reason: str
    previous_status: str | None
    labels_sha256: str | None


@dataclasses.dataclass(frozen=True)
class RetentionRow:
    """The decision on all that must survive one defence, or on one of its stages in cycles, by one judge."""

    run_id: str
    concept: str
    defence: str
    judge: str
    pairs: int
    backbone_hits: int
    defended_hits: int
    unassessed: int
    minimum: float
    low: float | None
    high: float | None
    status: str
    reason: str
    stage: str | None = None  # of cycles, in words


@dataclasses.dataclass(frozen=True)
class DamageRow:
    """The decision on the benign pictures of one defence as pictures."""

    run_id: str
    concept: str
    defence: str
    instrument: str
    pictures: int
    p_value: float | None
    level: float
    damaged: bool
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class QualityRow:
    """One quality number of one cell."""

    run_id: str
    concept: str
    defence: str
    scenario: str
    metric: str
    baseline: str
    planned: int
    assessed: int
    mean: float | None
    median: float | None
    value: float | None  # a distance between sets


@dataclasses.dataclass(frozen=True)
class ControlRow:
    """What one control shows by one detector, beside what is asked of it."""

    run_id: str
    control: str
    concept: str
    defence: str
    scenario: str
    detector: str
    planned: int | None
    hits: int | None
    unassessed: int | None
    at_least: float | None
    at_most: float | None
    holds: bool | None
    trouble: str | None


@dataclasses.dataclass(frozen=True)
class InstrumentRow:
    """One detector as one instrument, and the runs of the month that it judged."""

    detector: str
    instrument_id: str
    kind: str
    version: str
    weights_sha256: str
    threshold: float
    first_at: str
    last_at: str
    runs: int


@dataclasses.dataclass(frozen=True)
class Break:
    """A change after which numbers cannot be compared with those before: of an instrument, the corpus or the criteria."""

    what: str  # instrument | corpus | criteria
    subject: str
    before: str
    after: str
    since: str  # when the first run started that has it
    run_id: str


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One field of the policy, beside its value last month."""

    audit: str
    field: str
    value: str
    previous: str | None  # None: there is no run to compare with

    @property
    def changed(self) -> bool:
        """Return whether it differs from last month's."""
        return self.previous is not None and self.previous != self.value


@dataclasses.dataclass(frozen=True)
class Scope:
    """The cells of one scenario that one audit has tested."""

    audit: str
    scenario: str
    kind: str
    access: str
    concepts: tuple[str, ...]
    defences: tuple[str, ...]
    cells: int
    planned: int


@dataclasses.dataclass(frozen=True)
class Unassessed:
    """Readings that there are none of, for one reason."""

    run_id: str
    detector: str
    reason: str
    cases: int


@dataclasses.dataclass(frozen=True)
class PairRow:
    """Cases of one cell and judge in last month's run and in this month's, in pairs, and what they show."""

    audit: str
    concept: str
    defence: str
    scenario: str
    judge: str
    pairs: int
    came_back: int
    newly_held: int
    unassessed: int  # pairs of which a side is missing, unpaired cases among them
    increase_at_most: float
    p_worse: float
    word: str  # worse | better | no worse | not decided


@dataclasses.dataclass(frozen=True)
class Comparison:
    """This month's run of an audit beside last month's."""

    audit: str
    previous_run_id: str | None
    run_id: str
    pairs: tuple[PairRow, ...]
    not_compared: str | None  # why there are no pairs


@dataclasses.dataclass(frozen=True)
class WaiverRow:
    """A waiver file."""

    name: str
    run_id: str | None
    covers: str
    owner: str
    approver: str
    until: str | None
    reason: str
    compensating_control: str
    state: str  # in force | expired | does not count | for another run
    detail: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that whoever signs has to know of."""

    kind: str
    what: str
    run_id: str | None
    detail: str


@dataclasses.dataclass(frozen=True)
class Operation:
    """The runs of the month beside those that were expected."""

    expected: str | None  # cron expression, UTC
    planned: int | None
    done: int | None
    missed: tuple[str, ...]
    beyond: int | None  # runs that no expected time asked for
    undecided: int
