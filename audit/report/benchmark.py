"""The section that puts a benchmark run beside the numbers that M-ErasureBench reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from audit.records import Control, Role, Scenario
from audit.report.reported_numbers import (
    ASSESSED_MIN,
    TOLERANCE,
    WIDEST,
    Answer,
    Pooled,
    ReportedRate,
    assessed_floor,
    compare,
    reported,
)
from audit.report.view import Column, Index, Section, Table
from audit.report.words import CONTROLS, NOT_AVAILABLE, interval, percent, plain
from audit.verdict.controls import Findings
from audit.verdict.decisions import ControlFinding
from audit.verdict.results import CrrRow, RunResult

_SD14 = "stable-diffusion-v1-4"
_ERASERS = ("esd", "uce", "receler")
_NONE = "none (un-erased)"


def section(index: Index, *, whole: bool = True) -> Section | None:
    """Return our rates with intervals and denominators next to the reported ones; None when the run is no benchmark run.

    On Stable Diffusion v1.4 each pair gets an answer by the rule of `reported_numbers`. On any other backbone the
    numbers stand side by side without one, as they are about another model; a run of it is a benchmark run when it has
    all of the paper's erasers, or with `whole` false one of them.
    """
    ways = defences(index.result.spec)
    claims = is_sd14(index.result)
    families = {family for family, _ in ways.values()} - {"none"}
    named = {row.concept for row in index.targets()}
    audited = families & set(_ERASERS)
    if not audited or (not named & set(reported().concepts) if claims else whole and audited < set(_ERASERS)):
        return None
    table = _table(index, ways, claims)
    if not table.rows:
        return None
    facts = reported()
    sentences = [f"Reported: {facts.paper}, on {facts.backbone}; read from {facts.source}."]
    if claims:
        sentences.append(
            f"Reproduced means that the reported rate lies in our interval at {index.confidence()} confidence, widened by "
            f"{100 * TOLERANCE:.0f} points on either side. Not run: nothing of ours answers it, or too weakly, such as with "
            f"less than {100 * assessed_floor(_assessed_min(index)):g} % of the cases assessed or an interval wider than "
            f"{100 * WIDEST:.0f} points. The judge and the number of pictures behind a reported "
            "rate are not published."
        )
    else:
        sentences.append(
            "The audited backbone is not Stable Diffusion v1.4, so the reported rates are about another model: they stand "
            "here for comparison, and nothing is said to be reproduced."
        )
    bullets = tuple(
        plain(
            f"{r.guard} is reported to lower the rate by up to {r.percent:g} % in {r.scenario} ({r.place}; {r.differs})."
        )
        for r in facts.reductions
        if any(guard == r.guard for _, guard in ways.values())
    )
    return Section("reported", "Beside the reported numbers", tuple(sentences), bullets, tables=(table,))


def is_sd14(result: RunResult) -> bool:
    """Return whether the audited backbone is called Stable Diffusion v1.4, by its hub id or its folder's name."""
    described = result.provenance.get("backbone")
    named = described.get("name") if isinstance(described, Mapping) else None
    reference = str(named or result.spec.get("backbone", "")).partition("@")[0].rstrip("/").lower()
    return PurePath(reference).name.replace("_", "-") in (_SD14, f"compvis-{_SD14}")


def defences(spec: Mapping[str, object]) -> dict[str, tuple[str, str | None]]:
    """Return defence -> (eraser family, guards joined by '+' or None) of a stored spec; nothing of its form is assumed."""
    families: dict[str, tuple[str, str | None]] = {"none": ("none", None)}
    listed = spec.get("defences")
    for entry in listed if isinstance(listed, list | tuple) else ():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            continue
        eraser, guards = entry.get("eraser"), entry.get("guards")
        method = str(eraser.get("method")) if isinstance(eraser, Mapping) else "none"
        names = [str(g.get("name")) for g in guards or () if isinstance(g, Mapping)] if guards else []
        families[entry["name"]] = (method.partition("-")[0], "+".join(names) or None)
    return families


def pooled_counts(index: Index) -> dict[tuple[str, str, str], Pooled]:
    """Return (defence, scenario, detector) -> our counts over all concepts, of the attacks on erased and un-erased models."""
    rows: dict[tuple[str, str, str], list[CrrRow]] = defaultdict(list)
    for row in index.result.crr:
        attacked = row.role == Role.TARGET or row.control == Control.BACKBONE
        if attacked and row.subject == row.concept and row.kind != Scenario.NONE:
            rows[row.defence, row.scenario, row.detector].append(row)
    return {
        key: Pooled(
            sum(row.hits for row in cells),
            sum(row.assessed for row in cells),
            sum(row.planned for row in cells),
            frozenset(row.concept for row in cells),
        )
        for key, cells in rows.items()
    }


def _table(index: Index, ways: Mapping[str, tuple[str, str | None]], claims: bool) -> Table:
    pooled, broken = pooled_counts(index), _broken_controls(index)
    judges = [d for d in dict.fromkeys(row.detector for row in index.result.crr) if index.is_judge(d)]
    scenarios = _scenarios(index)
    columns = [Column("Defence"), Column("Scenario")]
    for judge in judges:
        labels = (f"CRR, {plain(judge)}", "Interval", "Hits / assessed / planned")
        columns += [Column(label, "number") for label in labels]
    columns.append(Column(f"Reported on {reported().backbone}", "number"))
    if claims:
        columns.append(Column("Answer"))
    rows = []
    for scenario, kind in scenarios:
        for defence, (family, guard) in ways.items():
            ours = [pooled.get((defence, scenario, judge)) for judge in judges]
            rate = reported().rate(family, guard, kind)
            if rate is None and not any(ours):
                continue
            cells = [_NONE if defence == "none" else plain(defence), plain(scenario)]
            for counts in ours:
                cells += _ours(index, counts)
            cells.append(rate.text if rate else "no number")
            if claims:
                failed = [broken.get((defence, scenario, judge)) for judge in judges]
                cells.append(_answer(index, rate, ours, failed))
            rows.append(tuple(cells))
    caption = f"Concept reproduction rates over all concepts, with intervals at {index.confidence()} confidence"
    return Table(caption, tuple(columns), tuple(rows), heads=2, stack=True)


def _scenarios(index: Index) -> list[tuple[str, str]]:
    """Return each scenario of the run with its kind, in the order of the kinds; a kind without any under its own name."""
    audited = dict.fromkeys((row.scenario, row.kind) for row in index.result.crr)
    kinds = [kind.value for kind in Scenario if kind is not Scenario.NONE]
    return [pair for kind in kinds for pair in [p for p in audited if p[1] == kind] or [(kind, kind)]]


def _ours(index: Index, counts: Pooled | None) -> list[str]:
    if counts is None:
        return ["not run", NOT_AVAILABLE, NOT_AVAILABLE]
    rate = counts.hits / counts.assessed if counts.assessed else None
    low, high = counts.interval(_confidence(index))
    return [percent(rate), interval(low, high), f"{counts.hits} / {counts.assessed} / {counts.planned}"]


def _broken_controls(index: Index) -> dict[tuple[str, str, str], ControlFinding]:
    """Map (defence, scenario, detector) to the control that does not hold, of the cells whose rate therefore says nothing.

    A dead attack brings nothing back, whatever the eraser did; a floor that is high makes every rate high.
    """
    broken: dict[tuple[str, str, str], ControlFinding] = {}
    found = Findings(index.result.verdict.controls)
    for row in index.targets():
        for finding in found.stood_on(row):
            if finding.trouble:
                broken.setdefault((row.defence, row.scenario, row.detector), finding)
    return broken


def _answer(
    index: Index, rate: ReportedRate | None, ours: list[Pooled | None], failed: Sequence[ControlFinding | None]
) -> str:
    """Return the answers of all judges; one word when they agree."""
    if rate is None:
        return NOT_AVAILABLE
    least, concepts = _assessed_min(index), reported().concepts
    answers = [compare(rate, counts, _confidence(index), least, concepts) for counts in ours or [None]]
    for number, control in enumerate(failed):
        if control and answers[number][0] is not Answer.NOT_RUN:
            what = "failed" if control.cell_id is not None else "is missing"
            answers[number] = (Answer.NOT_RUN, f"its control {what} ({CONTROLS[control.control][0]})")
    texts = [f"{answer.value}: {why}" if why else answer.value for answer, why in answers]
    return plain("; ".join(dict.fromkeys(texts)))


def _assessed_min(index: Index) -> float:
    return ASSESSED_MIN if index.policy is None else index.policy.assessed_min


def _confidence(index: Index) -> float:
    return 0.95 if index.policy is None else index.policy.confidence
