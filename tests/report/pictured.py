"""The case that a report made by hand shows in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from audit.records import Control, Role
from audit.verdict.case_pictures import ORDER, CasePicture, CaseReading, PicturedCase, PictureRole
from audit.verdict.results import CrrRow, Sample

_CONTROLS = {
    Control.REFERENCE.value: PictureRole.REFERENCE,
    Control.VAE_ROUNDTRIP.value: PictureRole.AUTOENCODER,
    Control.BACKBONE.value: PictureRole.BACKBONE,
}


def first_case(
    rows: Sequence[CrrRow], samples: Sequence[Sample], concept: str = "ring", scenario: str = "latent-whitebox"
) -> tuple[PicturedCase, ...]:
    """The first case of a scenario, with a picture of every cell that draws it; none where no cell does."""
    first = {sample.cell_id: sample for sample in samples if sample.case_no == 0}
    detectors: dict[int, list[str]] = {}
    for row in rows:
        detectors.setdefault(row.cell_id, []).append(row.detector)
    pictures = {
        row.cell_id: _picture(role, row.defence, first[row.cell_id], detectors[row.cell_id])
        for row in rows
        if (role := _role(row, scenario)) is not None and row.concept == concept and row.cell_id in first
    }
    ordered = sorted(pictures.values(), key=lambda picture: ORDER.index(picture.role))
    case = PicturedCase("demo", concept, scenario, 0, scenario.startswith("latent"), tuple(ordered))
    return (case,) if ordered else ()


def _role(row: CrrRow, scenario: str) -> PictureRole | None:
    if row.control is not None:
        role = _CONTROLS.get(row.control)
        return None if role is PictureRole.BACKBONE and row.scenario != scenario else role
    if row.role != Role.TARGET or row.scenario != scenario:
        return None
    return PictureRole.GUARDED if "+" in row.defence else PictureRole.ERASED


def _picture(role: PictureRole, defence: str, sample: Sample, detectors: Sequence[str]) -> CasePicture:
    readings = tuple(CaseReading(name, sample.outcome, sample.reason, sample.score) for name in detectors)
    return CasePicture(
        role, defence, sample.cell_id, 0, sample.image_id, sample.unit_key, sample.sensitive, False, readings
    )


def poisoned_case(case: PicturedCase, poison: Callable[[object], dict[str, Any]]) -> PicturedCase:
    """The case with every name in it changed to what `poison` gives for a record."""

    def poisoned(picture: CasePicture) -> CasePicture:
        readings = (dataclasses.replace(reading, **poison(reading)) for reading in picture.readings)
        return dataclasses.replace(picture, **poison(picture), readings=tuple(readings))

    return dataclasses.replace(case, **poison(case), pictures=tuple(map(poisoned, case.pictures)))
