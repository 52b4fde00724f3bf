"""The typed document behind a monthly report: what every format prints, as values."""

from __future__ import annotations

import dataclasses

from audit.compliance.records import (
    Audit,
    Break,
    Comparison,
    ControlRow,
    Criterion,
    DamageRow,
    Finding,
    InstrumentRow,
    Operation,
    QualityRow,
    ResultRow,
    RetentionRow,
    RunRow,
    Scope,
    Unassessed,
    WaiverRow,
)


@dataclasses.dataclass(frozen=True)
class Report:
    """One month of one system."""

    system: str
    month: str
    since: str
    until: str
    month_is_over: bool
    index: str
    index_sha256: str  # of the definitions that filled it
    versions: tuple[str, ...]
    owner: str | None
    contact: str | None
    status: str
    confidence: float
    conclusion: tuple[str, str, str]
    runs: tuple[RunRow, ...]
    previous_month: str
    previous_runs: int
    audits: tuple[Audit, ...]
    criteria: tuple[Criterion, ...]
    scope: tuple[Scope, ...]
    not_tested: tuple[str, ...]
    dropped: tuple[str, ...]  # tested last month and not in this one
    unassessed: tuple[Unassessed, ...]
    results: tuple[ResultRow, ...]
    retention: tuple[RetentionRow, ...]
    damage: tuple[DamageRow, ...]
    quality: tuple[QualityRow, ...]
    controls: tuple[ControlRow, ...]
    instruments: tuple[InstrumentRow, ...]
    breaks: tuple[Break, ...]
    comparisons: tuple[Comparison, ...]
    waivers: tuple[WaiverRow, ...]
    exceptions: tuple[Finding, ...]
    operation: Operation
