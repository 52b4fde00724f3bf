"""Plan the quality units: which pictures are measured, and which they are compared with. Loads no model; imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from audit import guards, identity
from audit.plan.builder import Builder
from audit.plan.identities import Pair, QualityIdentity
from audit.plan.planned_cases import CellCases
from audit.records import BENIGN_PROMPTS, Baseline, Cell, Comparison, Control, QualityInstrument, Role, Scenario
from audit.spec.benign import PICTURE_CHECK
from audit.spec.document import Spec

# Controls whose pictures a defence made, or the backbone in its place; the others are no outcome of an attack.
_ATTACKED = (None, Control.BACKBONE, Control.RANDOM_LATENT, Control.UNLEARNED)
PICTURE = "picture"  # the picture's own vector, whatever it is compared with later
Cells = Sequence[CellCases]  # by cell number


def plan_quality(builder: Builder, instruments: Sequence[QualityInstrument]) -> tuple[Comparison, ...]:
    """Plan the units that measure pictures, one per generate unit and instrument, and return the comparisons of every cell.

    There are none without instruments. A baseline cell has the same concept, subject and scenario, and its cases have
    the same seeds, prompts, reference images and attack results in the same order. An embedding that was learned for
    one defence alone has no baseline. The stages of cycles are all measured against the backbone before any edit.
    """
    if not instruments:
        return ()
    cases = builder.cases.cells
    outside = {entry.name for entry in builder.spec.quality if entry.where is not None}
    comparisons = tuple(_comparisons(builder.spec, [planned.cell for planned in builder.cells], cases))
    units, regions = builder.image_units, builder.cases.regions
    cells_of = _cells_by_picture(cases)
    check = builder.spec.benign.instrument
    code = identity.code_digest("quality")
    for instrument in instruments:
        plain = dataclasses.replace(instrument, instrument="")
        wanted: Iterator[Pair] = (
            iter(()) if instrument.instrument == PICTURE_CHECK else _pairs(instrument, comparisons, cases)
        )
        if instrument.instrument in outside:
            wanted = (pair for pair in wanted if pair[0] in regions)
        if check is not None and instrument.instrument == check.name:
            wanted = itertools.chain(wanted, _pictures_checked(builder, cases))
        grouped: dict[str, dict[Pair, None]] = {}
        for pair in wanted:
            grouped.setdefault(units[pair[0]], {})[pair] = None
        for generate in list(grouped):
            pairs = tuple(grouped.pop(generate))
            baselines = sorted({units[other] for _, _, other in pairs if other is not None} - {generate})
            masks = {image: regions[image] for image, _, _ in pairs} if instrument.instrument in outside else {}
            measured = QualityIdentity(generate, tuple(baselines), plain, pairs, code, masks)
            cells = {cell for image, _, _ in pairs for cell in cells_of[image]}
            builder.units.add(measured, (generate, *baselines), len(pairs), sorted(cells))
    return comparisons


def _cells_by_picture(cases: Cells) -> dict[int, tuple[int, ...]]:
    """Return the cells that need each picture, ascending."""
    cells_of: dict[int, tuple[int, ...]] = {}
    for cell_id, rows in enumerate(cases):
        alone = (cell_id,)  # one object for all pictures that no other cell needs
        for image in rows.images:
            before = cells_of.get(image, ())
            if before[-1:] != alone:
                cells_of[image] = before + alone if before else alone
    return cells_of


def _comparisons(spec: Spec, cells: Sequence[Cell], cases: Cells) -> Iterator[Comparison]:
    twins: dict[tuple[object, ...], int] = {}
    for cell in cells:
        twins.setdefault((cell.defence, *_attack(cell)), cell.cell_id)
    unedited = {
        (cell.concept, cell.subject, cell.scenario): cell.cell_id
        for cell in cells
        if cell.kind is Scenario.CYCLES and cell.defence == "none" and cell.strength == 0
    }
    for cell in cells:
        own = cases[cell.cell_id]
        if cell.kind is Scenario.CYCLES:
            first = unedited[cell.concept, cell.subject, cell.scenario]
            if first != cell.cell_id:
                yield Comparison(cell.cell_id, Baseline.BACKBONE, first)
            yield Comparison(cell.cell_id, Baseline.PROMPT, None)
            continue
        if cell.control not in _ATTACKED or not own.images:
            continue
        for baseline, defence in ((Baseline.BACKBONE, "none"), (Baseline.UNGUARDED, _unguarded(spec, cell.defence))):
            other = twins.get((defence, *_attack(cell))) if defence not in (None, cell.defence) else None
            if other is not None and own.has_inputs_of(cases[other]):
                yield Comparison(cell.cell_id, baseline, other, own.regions)
        if cell.kind.startswith("latent-"):
            yield Comparison(cell.cell_id, Baseline.REFERENCE, None, own.regions)
        if cell.kind is Scenario.TEXT:  # an adversarial prompt does not say what the picture should show
            yield Comparison(cell.cell_id, Baseline.PROMPT, None)


def _attack(cell: Cell) -> tuple[object, ...]:
    """Return what makes cells of several defences the same attack: on the backbone it is a control by name only."""
    control = None if cell.control is Control.BACKBONE else cell.control
    return cell.concept, cell.subject, cell.scenario, control


def _unguarded(spec: Spec, name: str) -> str | None:
    """Return the defence with the same eraser and no guards; None where that is the backbone, or not in the spec."""
    defence = spec.defence(name)
    if not guards.sampling(defence.guards) or defence.eraser is None:
        return None
    return next((d.name for d in spec.defences if d.eraser == defence.eraser and not d.guards), None)


def _pictures_checked(builder: Builder, cases: Cells) -> Iterator[Pair]:
    """Yield every picture that the picture check reads: of benign prompts, those at the stages of cycles among them, of the
    audited cells, and of their backbone twins.
    """
    for planned in builder.cells:
        cell = planned.cell
        audited = cell.role is Role.TARGET and cell.control is None
        if audited or cell.subject == BENIGN_PROMPTS or cell.control is Control.BACKBONE:
            yield from ((image, PICTURE, None) for image in cases[cell.cell_id].images)


def _pairs(instrument: QualityInstrument, comparisons: Sequence[Comparison], cases: Cells) -> Iterator[Pair]:
    """Yield the pairs of pictures that an instrument has to read, with repetitions where cells share pictures."""
    for comparison in comparisons:
        images = cases[comparison.cell_id].images
        others = cases[comparison.baseline_cell_id].images if comparison.baseline_cell_id is not None else None
        baseline = comparison.baseline.value
        if (comparison.baseline is Baseline.PROMPT) != (instrument.kind == "clip-score"):
            continue
        if instrument.kind == "features":
            yield from ((image, PICTURE, None) for image in (*images, *(others or ())))
            if comparison.baseline is Baseline.REFERENCE:
                yield from ((image, baseline, None) for image in images)
        elif instrument.kind != "clip-score" and others is not None:
            yield from ((image, baseline, other) for image, other in zip(images, others, strict=True))
        else:
            yield from ((image, baseline, None) for image in images)
