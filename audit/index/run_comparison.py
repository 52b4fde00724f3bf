"""Read the comparison of two runs from a published index: which instruments judged them, and their cases in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
from pydantic import ValidationError

from audit.errors import StoreError
from audit.files import Document
from audit.index.baselines import Baseline, require_standing
from audit.index.integrity import require_intact
from audit.index.plan_folding import counts_blocked_as
from audit.index.published import open_published, require_run
from audit.index.publishing import publish
from audit.index.records import records
from audit.index.run_pairs import changed_cases, changed_settings, pair_cases, stored_spec, unpaired_cases
from audit.index.store import Store, explained
from audit.plan.document import read_outline
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.comparison import MARGIN
from audit.verdict.regression import Comparison, Difference, Pairing, RunFacts, decide

_FIELDS = ("kind", "version", "package", "weights_sha256", "preprocessing", "labels", "score_floor", "parameters")
_MOST_CHANGES = 24  # of each cell, judge and direction
_LONGEST = 80


class OtherInstruments(StoreError):
    """The two runs were judged by other instruments, so that nothing can be said of what came back."""

    def __init__(self, old: str, new: str, differences: Sequence[Difference], where: str) -> None:
        self.differences = tuple(differences)
        lines = "\n".join(f"  - {difference}" for difference in differences)
        super().__init__(
            f"the runs {old} and {new} were judged by other instruments:\n{lines}",
            where=where,
            next_step=f"score the old pictures by the new judges: erasure-audit compare {old} {new} --rescore",
        )


def compare_runs(
    journal: Journal,
    old: str,
    new: str,
    database: Path,
    *,
    policy: Policy | None = None,
    margin: float = MARGIN,
    baseline: Baseline | None = None,
) -> Comparison:
    """Return the comparison of two runs from a fresh copy of the index at `database`, with its verdict.

    `baseline` is the name under which the old run is on record. Raises `JournalError` for an unknown run, `RecordChanged` when a
    file of either run is not what is on record, and what `read_comparison` raises.
    """
    if baseline is not None:
        require_standing(journal, baseline)
    outline = read_outline(journal, old)
    runs = (*([outline.derived_from] if outline.derived_from else ()), old, new)  # where the pictures lie comes first
    for run_id in runs:
        read_outline(journal, run_id)
        require_intact(journal, run_id)

    def fold(store: Store) -> None:
        for run_id in runs:
            store.consolidate(journal, run_id)

    published = publish(journal, database, fold)
    name = baseline.name if baseline else None
    return read_comparison(published, old, new, policy=policy, margin=margin, baseline=name)


def read_comparison(
    published: str | Path,
    old: str,
    new: str,
    *,
    policy: Policy | None = None,
    margin: float = MARGIN,
    baseline: str | None = None,
    most_changes: int = _MOST_CHANGES,
) -> Comparison:
    """Return the comparison of two runs of a published index, with its verdict.

    Judges, confidence and thresholds are those of `policy`, by default the new run's own. Raises `OtherInstruments` when a judge
    is another instrument in the old run or counts otherwise, `StoreError` for an unknown run, for a run and itself, when the runs
    share no case, and when the stored policy is of a form that this version does not know.
    """
    path = Path(published)
    con = open_published(path)
    try:
        with explained(path):
            return compare_indexed(
                con, path, old, new, policy=policy, margin=margin, baseline=baseline, most_changes=most_changes
            )
    finally:
        con.close()


def compare_indexed(
    con: duckdb.DuckDBPyConnection,
    path: str | Path,
    old: str,
    new: str,
    *,
    policy: Policy | None = None,
    margin: float = MARGIN,
    baseline: str | None = None,
    most_changes: int = _MOST_CHANGES,
) -> Comparison:
    """Return the comparison of two runs of the open index at `path`; raises as `read_comparison` does."""
    for run_id in (old, new):
        require_run(con, run_id, path)
    if old == new:
        raise StoreError(f"{new} is compared with itself", where=str(path), next_step="name two different runs")
    used = policy or _stored_policy(con, new)
    differences = instrument_differences(con, old, new, used)
    if differences:
        raise OtherInstruments(old, new, differences, str(path))
    pairing = _pairing(con, old, new, used, most_changes)
    _require_common(pairing, str(path))
    return decide(pairing, used.confidence, margin, baseline)


def instrument_differences(con: duckdb.DuckDBPyConnection, old: str, new: str, policy: Policy) -> list[Difference]:
    """Return every respect in which a judge of `policy` is another instrument in the new run, or counts by other rules there.

    A threshold that the policy sets counts in both runs.
    """
    first, second = _instruments(con, old), _instruments(con, new)
    differences = []
    for judge in policy.judges:
        a, b = first.get(judge), second.get(judge)
        if a is None or b is None:
            differences.append(Difference(judge, "absent", "" if a is None else judge, "" if b is None else judge))
            continue
        for field in _FIELDS if a["instrument_id"] != b["instrument_id"] else ():
            if a[field] != b[field]:
                differences.append(Difference(judge, field, _text(a[field]), _text(b[field])))
        if a["instrument_id"] != b["instrument_id"] and not any(d.detector == judge for d in differences):
            differences.append(Difference(judge, "identity", str(a["instrument_id"]), str(b["instrument_id"])))
        if judge not in policy.thresholds and a["thresholds"] != b["thresholds"]:
            differences.append(Difference(judge, "threshold", _text(a["thresholds"]), _text(b["thresholds"])))
        for subject in sorted(a["rules"].keys() & b["rules"].keys()):
            if a["rules"][subject] != b["rules"][subject]:
                said = (_text(side["rules"][subject]) for side in (a, b))
                differences.append(Difference(judge, f"rules of {subject}", *said))
    return differences


def _instruments(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Document]:
    """Return detector -> its instrument, with `rules` (subject -> labels) and the `thresholds` by which it counts."""
    rows = records(con, "select * from mart_instruments where run_id = ? order by detector", [run_id])
    sql = (
        "select s.detector, s.subject, list(s.label order by s.label), min(s.threshold) from rules as s"
        " inner join runs as r using (run_key) where r.run_id = ? group by s.detector, s.subject order by all"
    )
    rules = con.execute(sql, [run_id]).fetchall()
    return {
        row["detector"]: {
            **row,
            "rules": {subject: labels for detector, subject, labels, _ in rules if detector == row["detector"]},
            "thresholds": sorted({t for d, _, _, t in rules if d == row["detector"]}) or [row["threshold"]],
        }
        for row in rows
    }


def _pairing(con: duckdb.DuckDBPyConnection, old: str, new: str, policy: Policy, most_changes: int) -> Pairing:
    first, second = _facts(con, old), _facts(con, new)
    changed = changed_settings(stored_spec(con, old), stored_spec(con, new))
    thresholds = {judge: policy.thresholds.get(judge) for judge in policy.judges}
    rows = pair_cases(con, old, new, thresholds, list(changed), blocked=counts_blocked_as(policy.blocked))
    return Pairing(
        old=first,
        new=second,
        judges=policy.judges,
        rows=tuple(rows),
        unpaired=unpaired_cases(con, first, second, changed),
        changes=changed_cases(con, most_changes),
    )


def _require_common(pairing: Pairing, where: str) -> None:
    """Return when the runs have a case in common. Raises `StoreError` that says why not."""
    if any(row.pairs > row.unpaired for _, row in pairing.rows):
        return
    why = "; ".join(sorted({unpaired.sentence for unpaired in pairing.unpaired})) or "neither audits a defended model"
    raise StoreError(
        f"the runs {pairing.old.run_id} and {pairing.new.run_id} have no case in common: {why}",
        where=where,
        next_step="compare runs of one spec: the same concepts, defences, scenarios, prompts, pictures and seeds",
    )


def _facts(con: duckdb.DuckDBPyConnection, run_id: str) -> RunFacts:
    sql = (
        "select run_id, name, created_at, system, system_version, backbone_sha256, corpus_sha256, derived_from"
        " from mart_runs where run_id = ?"
    )
    (row,) = con.execute(sql, [run_id]).fetchall()
    return RunFacts(*row)


def _stored_policy(con: duckdb.DuckDBPyConnection, run_id: str) -> Policy:
    try:
        return Policy.model_validate(stored_spec(con, run_id).get("gate"))
    except ValidationError:
        raise StoreError(
            "the policy stored with this run is not one of this version",
            where=f"run {run_id}",
            next_step="name one of this version with --policy SPEC",
        ) from None


def _text(value: object) -> str:
    text = (
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        if isinstance(value, list)
        else str(value)
    )
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
