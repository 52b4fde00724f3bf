"""The comparison of two runs as sections, for every format."""

from __future__ import annotations

from collections.abc import Mapping

from audit.report.tables import STATUS_ORDER, p_value
from audit.report.view import Column, Section, Table
from audit.report.words import NOT_AVAILABLE, SYMBOLS, count, limit_text, plain, status_text
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import ComparedCell, Comparison, RunFacts, Unpaired, decided

MAX_REASONS = 12

SENTENCES: Mapping[VerdictStatus, str] = {
    VerdictStatus.PASS: (
        "No regression: in every cell, by every judge, the share of cases that came back is bounded within the margin, with "
        "every case that lacks an outcome or a partner counted as come back."
    ),
    VerdictStatus.FAIL: (
        "A regression is shown: in at least one cell more cases came back than chance explains, with every case that lacks an "
        "outcome or a partner counted against that."
    ),
    VerdictStatus.INCONCLUSIVE: (
        "Neither is shown: no cell is proven to be worse, and not in every cell is the share that came back bounded within the "
        "margin."
    ),
}
_READING = (
    "Came back: clear in the old run and a hit in the new one. Held now: the other way round. p is McNemar's exact test, "
    "one-sided, corrected by Holm's rule for all cells and judges of the table. The bound is Clopper-Pearson's, of cases that "
    "came back, lack an outcome or have no partner, among all that either run planned."
)


def sections(comparison: Comparison, gate: VerdictStatus | None = None) -> tuple[Section, ...]:
    """Return the sections of a comparison: the verdict with its table, then what has no partner.

    With `gate`, the status of the new run's own gate, they also say which of the two decides.
    """
    every = (_verdict(comparison, gate), _unpaired(comparison))
    return tuple(section for section in every if section is not None)


def headline(comparison: Comparison) -> str:
    """Return the verdict and both runs in one line."""
    status = comparison.status.value
    old = f"baseline {comparison.baseline} ({comparison.old.run_id})" if comparison.baseline else comparison.old.run_id
    return f"{SYMBOLS[status]} {status}  {plain(comparison.new.run_id)} against {plain(old)}"


def table(comparison: Comparison) -> Table:
    """Return one row for each cell and judge, regressions first."""
    columns = (
        Column("Verdict", "status"),
        Column("Concept", minor=2),
        Column("Defence"),
        Column("Scenario"),
        Column("Judge"),
        Column("Cases", "number"),
        Column("Came back", "number"),
        Column("Held now", "number"),
        Column("No outcome", "number", minor=1),
        Column("No partner", "number", minor=1),
        Column("Came back at most", "number"),
        Column("p, corrected", "number", minor=3),
        Column("Difference of CRR", "number", minor=4),
    )
    ordered = sorted(comparison.cells, key=lambda cell: STATUS_ORDER[cell.status])
    caption = (
        f"Cases of both runs, margin {limit_text(comparison.margin)}, confidence {limit_text(comparison.confidence)}"
    )
    return Table(caption, columns, tuple(map(_line, ordered)), stack=True)


def _verdict(comparison: Comparison, gate: VerdictStatus | None) -> Section:
    decides: tuple[str, ...] = ()
    if gate is not None:
        counts = decided(gate, comparison)
        decides = (f"The worse of gate and regression decides: {counts.value}, exit code {counts.exit_code}.",)
    reasons = [plain(reason) for reason in comparison.reasons[:MAX_REASONS]]
    if len(comparison.reasons) > len(reasons):
        reasons.append(f"and {len(comparison.reasons) - len(reasons)} more; all stand in the table.")
    return Section(
        "regression",
        f"Regression: {status_text(comparison.status.value)}",
        (SENTENCES[comparison.status], *decides, *(plain(note) for note in comparison.notes)),
        tuple(reasons),
        facts=_facts(comparison),
        tables=(table(comparison),) if comparison.cells else (),
        texts=(("How to read this", _READING),),
    )


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    facts = [("Old run", _run(comparison.old)), ("New run", _run(comparison.new))]
    if comparison.baseline:
        facts.insert(0, ("Baseline", plain(comparison.baseline)))
    return (*facts, ("Judges", plain(", ".join(comparison.judges))))


def _run(run: RunFacts) -> str:
    version = f", version {run.system_version}" if run.system_version else ""
    return plain(
        f"{run.run_id} of {run.created_at}: {run.system}{version}, backbone {(run.backbone_sha256 or '?')[:8]}"
    )


def _unpaired(comparison: Comparison) -> Section | None:
    if not comparison.unpaired:
        return None
    columns = (
        Column("Concept", minor=2), Column("Defence"), Column("Scenario"), Column("Planned in"), Column("Cases", "number"),
        Column("Why"),
    )  # fmt: skip
    rows = tuple(map(_alone, comparison.unpaired))
    sentence = "Cases that only one of the runs has. They count as come back."
    return Section("unpaired", "Cases without a partner", (sentence,), tables=(Table("No partner", columns, rows),))


def _alone(unpaired: Unpaired) -> tuple[str, ...]:
    return (
        plain(unpaired.concept), plain(unpaired.defence), plain(unpaired.scenario), f"the {unpaired.side} run",
        count(unpaired.cases), plain(unpaired.sentence),
    )  # fmt: skip


def _line(cell: ComparedCell) -> tuple[str, ...]:
    decision, row = cell.decision, cell.row
    return (
        status_text(cell.status.value),
        plain(cell.concept),
        plain(cell.defence),
        plain(cell.scenario),
        plain(cell.detector),
        count(row.pairs),
        count(row.second_only),
        count(row.first_only),
        count(row.unassessed - row.unpaired),
        count(row.unpaired),
        f"{100 * decision.increase_at_most:.2f} %",
        p_value(decision.p_worse_adjusted),
        NOT_AVAILABLE if decision.difference is None else f"{100 * decision.difference:+.1f} points",
    )
