"""The section on cycles: what editing and erasing in turn do to the concept, its neighbours and the pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from audit.records import BENIGN_PROMPTS, Control
from audit.records import stage_name as defended
from audit.report import survival
from audit.report.quality import BASELINES, DIRECTIONS, shown
from audit.report.tables import CASES, INSTRUMENT, by_scenario, three_counts
from audit.report.view import Column, Index, Section, Table, defence_name, subject_name
from audit.report.words import NOT_AVAILABLE, count, interval, percent, plain, status_text
from audit.verdict.results import CrrRow, QualityRow

_SENTENCES = (
    "Each erased model was edited, by training on a few reference pictures of the concept that stays in the weights, and "
    "then erased once more by its own eraser, in turn. Stage 0 is the erased model, odd stages are edited, even "
    "ones erased again. The last stage is the scenario's rate, to which limits apply.",
    "Beside them stand the un-erased model and a concept that the backbone never learned, edited by one training as long as "
    "all edits together and erased at no stage. A neighbour that is lost there too was lost to the editing; one that is lost "
    "in the chain alone was lost to the erasing, or to the editing of what the eraser had tied it to.",
)


def section(index: Index, *, reasons: Collection[str] = ()) -> Section | None:
    """Return the section on cycles, or None where no scenario edits and erases in turn.

    Its decisions have no column of reasons when `reasons` has them all.
    """
    rows = index.cycles()
    if not rows:
        return None
    places = {chain: place for place, chain in enumerate(dict.fromkeys(map(_chain, by_scenario(rows))))}
    ordered = sorted(rows, key=lambda row: (places[_chain(row)], row.strength or 0.0))
    tables = (*_kept(index, reasons), _rates(index, ordered), *_pictures(index, ordered))
    return Section("cycles", "Cycles of editing and erasing", (*_SENTENCES, *_judged(index)), tables=tables)


def stage_name(row: CrrRow) -> str:
    """Return what was done last to the model of a row's stage."""
    number = int(row.strength or 0)
    return "as it is" if row.defence == "none" and not number else defended(number)


def _chain(row: CrrRow) -> tuple[str, ...]:
    return row.scenario, row.concept, row.defence, row.subject, row.detector


def _sought(index: Index, row: CrrRow) -> tuple[str, str]:
    if row.subject == BENIGN_PROMPTS:
        return subject_name(row.subject), "must survive"
    if row.subject == row.concept:
        return plain(row.subject), "un-erased" if row.defence == "none" else "erased"
    ends = {r.subject for r in index.cycles() if r.control == Control.UNLEARNED and r.scenario == row.scenario}
    return plain(row.subject), "never learned" if row.subject in ends else "neighbour"


def _rates(index: Index, rows: Sequence[CrrRow]) -> Table:
    columns = (
        Column("Sought"),
        Column("Which is", minor=1),
        Column("Defence"),
        Column("Scenario", minor=2),
        Column("Stage", "number"),
        Column("Model"),
        *INSTRUMENT,
        Column(CASES, "number"),
        Column("Rate", "number"),
        Column(f"{index.confidence()} interval", "number"),
        Column("Since stage 0", "number"),
    )
    first = {_chain(row): row.rate for row in rows if not row.strength}
    lines = tuple(
        (
            *_sought(index, row),
            defence_name(row),
            plain(row.scenario),
            count(int(row.strength or 0)),
            stage_name(row),
            *index.instrument(row),
            three_counts(row),
            percent(row.rate),
            interval(row.ci_low, row.ci_high),
            _drift(first.get(_chain(row)), row.rate),
        )
        for row in rows
    )
    return Table("Rates at each stage", columns, lines, heads=2)


def _judged(index: Index) -> tuple[str, ...]:
    """Return what the policy makes of the stages besides the last one's rate."""
    if not any(row.subject != row.concept and row.defence != "none" for row in index.cycles()):
        return ("Nothing that must survive was drawn at the stages, so nothing of them is decided besides.",)
    if index.policy is not None and index.policy.retention_waived is not None:
        return ("What must survive is not judged by this policy, at the stages neither.",)
    if not any(decision.stage_no is not None for decision in index.result.verdict.retention):
        return ("This run holds no decision on what must survive at the stages.",)
    only = index.policy is not None and index.policy.retention_stages == "erased"
    return (
        f"What must survive is held to the policy's minimum at {'each erased' if only else 'every'} stage, all of it together, "
        "against the un-erased model's pictures before any edit. These decisions enter the verdict.",
    )


def _kept(index: Index, reasons: Collection[str]) -> tuple[Table, ...]:
    """Return the decisions on what must survive at each stage, in the order of the stages; nothing without any."""
    decisions = sorted(
        (decision for decision in index.result.verdict.retention if decision.stage_no is not None),
        key=lambda d: (d.concept, d.defence, d.scenario or "", d.stage_no or 0, d.detector),
    )
    if not decisions:
        return ()
    columns = (
        Column("Decision", "status"),
        Column("Concept", minor=3),
        Column("Defence"),
        Column("Stage"),
        Column("Judge", minor=1),
        *survival.KEPT,
    )
    lines = tuple(
        (
            status_text(d.status.value),
            plain(d.concept),
            plain(d.defence),
            plain(f"{d.stage} ({defended(d.stage_no or 0)})"),
            plain(d.detector),
            *survival.kept(d),
        )
        for d in decisions
    )
    caption = (
        f"What is left at each stage: a share of the un-erased model's rate, at {index.bounds_confidence()} confidence"
    )
    return (Table(caption, columns, lines, stack=True).with_reasons([d.reason for d in decisions], reasons),)


def _drift(before: float | None, rate: float | None) -> str:
    if before is None or rate is None:
        return NOT_AVAILABLE
    return f"{100 * (rate - before):+.1f} points".replace("-", "−")


def _pictures(index: Index, rows: Sequence[CrrRow]) -> tuple[Table, ...]:
    """Return how far the pictures of each stage are from the backbone's before any edit; nothing where none was measured."""
    stages = {row.cell_id: row for row in reversed(rows)}
    places = {cell: place for place, cell in enumerate(dict.fromkeys(row.cell_id for row in rows))}
    chains: dict[tuple[str, ...], dict[int, QualityRow]] = {}
    for one in sorted((q for q in index.result.quality if q.cell_id in stages), key=lambda q: places[q.cell_id]):
        row = stages[one.cell_id]
        names = (
            *_sought(index, row),
            defence_name(row),
            plain(row.scenario),
            plain(one.metric),
            _against(one.baseline),
        )
        chains.setdefault((*names, one.instrument), {})[int(row.strength or 0)] = one
    if not chains:
        return ()
    numbers = sorted({number for chain in chains.values() for number in chain})
    columns = (
        Column("Sought"),
        Column("Which is", minor=1),
        Column("Defence"),
        Column("Scenario", minor=2),
        Column("Metric"),
        Column("Against", minor=2),
        *(Column(f"Stage {number}", "number") for number in numbers),
        Column("Reads as", minor=3),
    )
    lines = tuple(
        (
            *names,
            *(_measured(chain.get(number)) for number in numbers),
            DIRECTIONS.get(next(iter(chain.values())).metric, ""),
        )
        for (*names, _), chain in sorted(chains.items(), key=lambda chain: chain[0][4:])
    )
    return (Table("Pictures at each stage: means or distances", columns, lines, heads=2),)


def _measured(one: QualityRow | None) -> str:
    if one is None:
        return ""
    return shown(one) + (f" ({count(one.assessed)} of {count(one.planned)})" if one.unassessed else "")


def _against(baseline: str) -> str:
    return "un-erased, unedited" if baseline == "backbone" else BASELINES.get(baseline, plain(baseline))
