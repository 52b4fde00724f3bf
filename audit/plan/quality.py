"""Plan the quality units: which pictures are measured, and which they are compared with. Loads no model; imports no torch."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence

from audit import identity
from audit.plan.builder import Builder
from audit.plan.identities import Pair, QualityIdentity
from audit.records import Baseline, Case, Cell, Comparison, Control, QualityInstrument, Role, Scenario
from audit.spec.benign import PICTURE_CHECK
from audit.spec.document import Spec

# Controls whose pictures a defence made, or the backbone in its place; the others are no outcome of an attack.
_ATTACKED = (None, Control.BACKBONE, Control.RANDOM_LATENT, Control.UNLEARNED)
PICTURE = "picture"  # the picture's own vector, whatever it is compared with later
CellCases = Mapping[int, Sequence[Case]]  # by cell


def plan_quality(builder: Builder, instruments: Sequence[QualityInstrument]) -> tuple[Comparison, ...]:
    """Plan the units that measure pictures, one per generate unit and instrument, and return the comparisons of every cell.

    There are none without instruments. A baseline cell has the same concept, subject and scenario, and its cases have
    the same seeds, prompts, reference images and attack results in the same order. An embedding that was learned for
    one defence alone has no baseline.
    """
    if not instruments:
        return ()
    cases: dict[int, list[Case]] = {}
    for case in builder.cases:
        cases.setdefault(case.cell_id, []).append(case)
    outside = {entry.name for entry in builder.spec.quality if entry.where is not None}
    comparisons = tuple(_comparisons(builder.spec, [planned.cell for planned in builder.cells], cases))
    units = {case.image_id: case.unit_key for rows in cases.values() for case in rows}
    regions = {case.image_id: case.region for rows in cases.values() for case in rows if case.region}
    cells_of: dict[int, set[int]] = {}
    for cell_id, rows in cases.items():
        for case in rows:
            cells_of.setdefault(case.image_id, set()).add(cell_id)
    check = builder.spec.benign.instrument
    for instrument in instruments:
        plain = dataclasses.replace(instrument, instrument="")
        grouped: dict[str, dict[Pair, None]] = {}
        wanted = [] if instrument.instrument == PICTURE_CHECK else list(_pairs(instrument, comparisons, cases))
        if instrument.instrument in outside:
            wanted = [pair for pair in wanted if pair[0] in regions]
        if check is not None and instrument.instrument == check.name:
            wanted += _pictures_checked(builder, cases)
        for pair in wanted:
            grouped.setdefault(units[pair[0]], {})[pair] = None
        for generate, pairs in grouped.items():
            baselines = sorted({units[other] for _, _, other in pairs if other is not None} - {generate})
            masks = {image: regions[image] for image, _, _ in pairs} if instrument.instrument in outside else {}
            code = identity.code_digest("quality")
            measured = QualityIdentity(generate, tuple(baselines), plain, tuple(pairs), code, masks)
            cells = set().union(*(cells_of[image] for image, _, _ in pairs))
            builder.unit(measured, (generate, *baselines), len(pairs), cells)
    return comparisons


def _comparisons(spec: Spec, cells: Sequence[Cell], cases: CellCases) -> Iterator[Comparison]:
    for cell in cells:
        if cell.control not in _ATTACKED or not cases.get(cell.cell_id):
            continue
        regions = any(case.region for case in cases[cell.cell_id])
        for baseline, defence in ((Baseline.BACKBONE, "none"), (Baseline.UNGUARDED, _unguarded(spec, cell.defence))):
            other = _twin(cells, cell, defence)
            if other is not None and _same_inputs(cases[cell.cell_id], cases.get(other, [])):
                yield Comparison(cell.cell_id, baseline, other, regions)
        if cell.kind.startswith("latent-"):
            yield Comparison(cell.cell_id, Baseline.REFERENCE, None, regions)
        if cell.kind is Scenario.TEXT:  # an adversarial prompt does not say what the picture should show
            yield Comparison(cell.cell_id, Baseline.PROMPT, None)


def _unguarded(spec: Spec, name: str) -> str | None:
    """Return the defence with the same eraser and no guards; None where that is the backbone, or not in the spec."""
    defence = spec.defence(name)
    if not defence.guards or defence.eraser is None:
        return None
    return next((d.name for d in spec.defences if d.eraser == defence.eraser and not d.guards), None)


def _twin(cells: Sequence[Cell], cell: Cell, defence: str | None) -> int | None:
    """Return the cell of the same attack under another defence: on the backbone it is a control by name only."""

    def attack(other: Cell) -> tuple[object, ...]:
        control = None if other.control is Control.BACKBONE else other.control
        return other.concept, other.subject, other.scenario, control

    if defence is None or defence == cell.defence:
        return None
    return next((c.cell_id for c in cells if c.defence == defence and attack(c) == attack(cell)), None)


def _same_inputs(one: Sequence[Case], other: Sequence[Case]) -> bool:
    inputs = operator.attrgetter("seed", "prompt", "item", "attack_key", "attack_item")
    return [inputs(case) for case in one] == [inputs(case) for case in other]


def _pictures_checked(builder: Builder, cases: CellCases) -> Iterator[Pair]:
    """Yield every picture that the picture check reads: of benign prompts, of the audited cells, and of their backbone
    twins.
    """
    for planned in builder.cells:
        cell = planned.cell
        audited = cell.role is Role.TARGET and cell.control is None
        if audited or cell.role is Role.BENIGN or cell.control is Control.BACKBONE:
            yield from ((case.image_id, PICTURE, None) for case in cases.get(cell.cell_id, ()))


def _pairs(instrument: QualityInstrument, comparisons: Sequence[Comparison], cases: CellCases) -> Iterator[Pair]:
    """Yield the pairs of pictures that an instrument has to read, with repetitions where cells share pictures."""
    for comparison in comparisons:
        rows = cases[comparison.cell_id]
        others = cases[comparison.baseline_cell_id] if comparison.baseline_cell_id is not None else None
        if (comparison.baseline is Baseline.PROMPT) != (instrument.kind == "clip-score"):
            continue
        if instrument.kind == "features":
            for case in (*rows, *(others or ())):
                yield case.image_id, PICTURE, None
            if comparison.baseline is Baseline.REFERENCE:
                yield from ((case.image_id, comparison.baseline.value, None) for case in rows)
        elif instrument.kind != "clip-score" and others is not None:
            yield from (
                (case.image_id, comparison.baseline.value, other.image_id)
                for case, other in zip(rows, others, strict=True)
            )
        else:
            yield from ((case.image_id, comparison.baseline.value, None) for case in rows)
