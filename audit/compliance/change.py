"""What changed: criteria, instruments and corpus from run to run, and the cases of two months in pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from audit.compliance.records import Audit, Break, Comparison, Criterion, InstrumentRow, PairRow, RunRow
from audit.compliance.rows import Connection, planned_policy
from audit.errors import StoreError
from audit.files import Document
from audit.index.records import records
from audit.index.run_pairs import read_run_pairs
from audit.verdict.comparison import PairedDecision, compare

_INSTRUMENTS = """
select run_id, detector, instrument_id::varchar as instrument_id, kind, version, weights_sha256, threshold
from mart_instruments where list_contains(?, run_id) order by run_id, detector
"""


def criteria(audits: Sequence[Audit], specs: Mapping[str, Document]) -> tuple[Criterion, ...]:
    """Return every field of each audit's planned policy beside last month's; nothing for one that cannot be read."""
    rows = []
    for audit in audits:
        now = _fields(specs[audit.run_id])
        before = _fields(specs[audit.previous_run_id]) if audit.previous_run_id else None
        for field in [*now, *(name for name in before or {} if name not in now)]:
            previous = None if before is None else before.get(field, "none")
            rows.append(Criterion(audit.name, field, now.get(field, "none"), previous))
    return tuple(rows)


def _fields(spec: Document) -> dict[str, str]:
    policy = planned_policy(spec)
    return dict(_flat("", policy.model_dump(mode="json"))) if policy else {}


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), item)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            stated = {name: part for name, part in item.items() if part is not None}
            yield f"{prefix}.{number}", ", ".join(f"{name} {_text(part)}" for name, part in stated.items())
    else:
        yield prefix, _text(value)


def _text(value: object) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def read_instruments(con: Connection, runs: Sequence[RunRow]) -> tuple[InstrumentRow, ...]:
    """Return each detector as each instrument that it was in `runs`, in order of first use."""
    times = {run.run_id: run.created_at for run in runs}
    rows: dict[tuple[str, str, float], list[Document]] = {}
    for row in records(con, _INSTRUMENTS, [list(times)]):
        rows.setdefault((row["detector"], row["instrument_id"], row["threshold"]), []).append(row)
    instruments = []
    for same in rows.values():
        used = sorted(times[row["run_id"]] for row in same)
        fields = {name: value for name, value in same[0].items() if name != "run_id"}
        instruments.append(InstrumentRow(**fields, first_at=used[0], last_at=used[-1], runs=len(used)))
    return tuple(sorted(instruments, key=lambda row: (row.detector, row.first_at, row.instrument_id)))


def breaks(con: Connection, runs: Sequence[RunRow]) -> tuple[Break, ...]:
    """Return where instrument, corpus or criteria change from one run to the next of the same name; `runs` are oldest first."""
    instruments: dict[str, dict[str, Document]] = {}
    for row in records(con, _INSTRUMENTS, [[run.run_id for run in runs]]):
        instruments.setdefault(row["run_id"], {})[row["detector"]] = row
    changes: list[Break] = []
    last: dict[str, RunRow] = {}
    for run in runs:
        before = last.get(run.name)
        if before is not None:
            changes += _between(before, run, instruments)
        last[run.name] = run
    return tuple(changes)


def _between(old: RunRow, new: RunRow, instruments: Mapping[str, Mapping[str, Document]]) -> Iterator[Break]:
    first, second = instruments.get(old.run_id, {}), instruments.get(new.run_id, {})
    for detector in sorted(first.keys() | second.keys()):
        a, b = _identity(first.get(detector)), _identity(second.get(detector))
        if a != b:
            yield Break("instrument", detector, a, b, new.created_at, new.run_id)
    if old.corpus_sha256 != new.corpus_sha256:
        digests = old.corpus_sha256 or "none", new.corpus_sha256 or "none"
        yield Break("corpus", new.name, *digests, new.created_at, new.run_id)
    policies = _policy(old), _policy(new)
    if policies[0] != policies[1]:
        yield Break("criteria", new.name, *policies, new.created_at, new.run_id)


def _identity(row: Document | None) -> str:
    if row is None:
        return "absent"
    return f"instrument {row['instrument_id']}, weights {row['weights_sha256']}, threshold {row['threshold']:g}"


def _policy(run: RunRow) -> str:
    return run.policy_sha256 or run.planned_policy_sha256 or "not known"


def comparisons(published: Path, audits: Sequence[Audit], confidence: float) -> tuple[Comparison, ...]:
    """Return each audit's run beside last month's, case by case."""
    return tuple(_comparison(published, audit, confidence) for audit in audits)


def _comparison(published: Path, audit: Audit, confidence: float) -> Comparison:
    old = audit.previous_run_id
    if old is None:
        return Comparison(
            audit.name, None, audit.run_id, (), "there is no decided run of this audit in the month before"
        )
    try:
        decided = compare(read_run_pairs(published, old, audit.run_id), confidence)
    except StoreError as error:
        return Comparison(audit.name, old, audit.run_id, (), error.what)
    pairs = tuple(_pair(audit, decision) for decision in decided)
    return Comparison(audit.name, old, audit.run_id, pairs, None if pairs else "the runs share no cell")


def _pair(audit: Audit, decision: PairedDecision) -> PairRow:
    row = decision.row
    return PairRow(
        audit=audit.name,
        concept=row.concept,
        defence=row.first.removesuffix(f" in {audit.previous_run_id}"),
        scenario=row.scenario,
        judge=row.detector,
        pairs=row.pairs,
        came_back=row.second_only,
        newly_held=row.first_only,
        unassessed=row.unassessed,
        increase_at_most=decision.increase_at_most,
        p_worse=decision.p_worse_adjusted,
        word=decision.word,
    )
