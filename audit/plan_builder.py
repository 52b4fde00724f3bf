"""Collect the cells, cases and units of a plan, with the content keys that say what has to be computed once only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from audit import erasers, guards, identity
from audit.checkpoint_refs import resolve_checkpoint
from audit.model_refs import ModelRef
from audit.plan import CASES_SCHEMA, UNITS_SCHEMA, PlannedCell, chunks
from audit.records import Cell, Instrument
from audit.scenarios import LatentScenario
from audit.spec import Concept, Spec


@dataclasses.dataclass(frozen=True)
class CorpusItem:
    """One planned reference image: `item` is its pixel hash, or a stand-in for an object that cannot be decoded."""

    item: str
    uri: str


class Builder:
    """Collects cells, cases and units; pictures that several cells need are planned once."""

    def __init__(self, spec: Spec, backbone: ModelRef, items: Mapping[str, Sequence[CorpusItem]]) -> None:
        self.spec, self.backbone, self.items = spec, backbone, items
        self.cells: list[PlannedCell] = []
        self.columns: dict[str, list[Any]] = {name: [] for name in CASES_SCHEMA.names}
        self.units: dict[str, dict[str, Any]] = {}
        self._image_units: dict[int, str] = {}
        self._invert_units: dict[tuple[str, str], str] = {}
        self._checkpoints: dict[str, str] = {}

    def model(self, defence: str, concept: Concept) -> str | None:
        """Key of the erase unit that makes the defence's weights for `concept`; None is the backbone itself."""
        eraser = self.spec.defence(defence).eraser
        if eraser is None:
            return None
        if eraser.checkpoint is not None:
            return self._unit("erase", self._loaded(eraser.method, eraser.checkpoint), (), 1, len(self.cells))
        described = {
            "kind": "erase",
            "backbone": self.backbone.sha256,
            "method": eraser.method,
            "parameters": erasers.resolve_parameters(eraser, self.backbone.name),
            "concept": concept.model_dump(mode="json", exclude={"sensitive"}),
            "code": identity.code_digest("erase"),
        }
        return self._unit("erase", described, (), 1, len(self.cells))

    def _loaded(self, claim: str, checkpoint: str) -> dict[str, Any]:
        """Identity of a checkpoint: its content and what is claimed of it, never where it lies."""
        if checkpoint not in self._checkpoints:
            self._checkpoints[checkpoint] = resolve_checkpoint(checkpoint).sha256
        return {
            "kind": "erase",
            "backbone": self.backbone.sha256,
            "checkpoint": self._checkpoints[checkpoint],
            "claim": claim,
            "code": identity.code_digest("erase"),
        }

    def common(self, source: str, defence: str, concept: Concept, sampler: Mapping[str, Any] | None) -> dict[str, Any]:
        """Identity fields that all pictures of a cell share."""
        resolved = [guards.resolve(guard, concept) for guard in self.spec.defence(defence).guards]
        return {
            "source": source,
            "backbone": self.backbone.sha256,
            "model": self.model(defence, concept) if sampler else None,
            "guards": resolved if sampler else [],
            "sampler": sampler,
            "code": identity.code_digest("generate"),
        }

    def add(
        self,
        cell: Cell,
        common: Mapping[str, Any],
        cases: Sequence[Mapping[str, Any]],
        latent: LatentScenario | None = None,
        inverter: str | None = None,
    ) -> None:
        """Plan one cell. Each case carries seed, prompt, item and item_uri as its source needs them."""
        index = len(self.cells)
        gate = latent.quality_gate if latent else None
        self.cells.append(
            PlannedCell(
                dataclasses.replace(cell, cell_id=index, planned=len(cases)),
                sensitive=self.spec.is_sensitive(cell.subject) or self.spec.is_sensitive(cell.concept),
                gate_residual_max=gate.residual_max if gate else None,
                gate_psnr_min_db=gate.psnr_min_db if gate else None,
            )
        )
        inverts = self._inverts(latent, inverter, cases, index) if latent else [None] * len(cases)
        images = [
            identity.int_key({**common, **_identity_of(case), "invert": invert})
            for case, invert in zip(cases, inverts, strict=True)
        ]
        self._generate_units(common, images, sorted({i for i in inverts if i}), index)
        for number, (case, image, invert) in enumerate(zip(cases, images, inverts, strict=True)):
            row = {
                "cell_id": index,
                "case_no": number,
                "image_id": image,
                "unit_key": self._image_units[image],
                "invert_key": invert,
                **case,
            }
            for name, column in self.columns.items():
                column.append(row.get(name))

    def _inverts(
        self, latent: LatentScenario, inverter: str | None, cases: Sequence[Mapping[str, Any]], cell: int
    ) -> list[str | None]:
        """The invert unit of each case; items already inverted by the same model keep their unit."""
        described = {
            "kind": "invert",
            "backbone": self.backbone.sha256,
            "model": inverter,
            "steps": latent.sampler.steps,
            "passes": latent.fixed_point_passes,
            "tolerance": latent.fixed_point_tolerance,
            "code": identity.code_digest("invert"),
        }
        shared = identity.key(described)
        new = [item for item in dict.fromkeys(c["item"] for c in cases) if (shared, item) not in self._invert_units]
        for chunk in chunks(new, self.spec.unit_size):
            unit = self._unit("invert", {**described, "items": list(chunk)}, _some(inverter), len(chunk), cell)
            self._invert_units.update({(shared, item): unit for item in chunk})
        keys = [self._invert_units[shared, case["item"]] for case in cases]
        for unit in set(keys):
            self.units[unit]["cell_ids"].add(cell)
        return list(keys)

    def _generate_units(self, common: Mapping[str, Any], images: Sequence[int], inverts: list[str], cell: int) -> None:
        new = [image for image in dict.fromkeys(images) if image not in self._image_units]
        depends = (*_some(common["model"]), *inverts)
        for chunk in chunks(new, self.spec.unit_size):
            described = {"kind": "generate", **common, "images": list(chunk)}
            unit = self._unit("generate", described, depends, len(chunk), cell)
            self._image_units.update(dict.fromkeys(chunk, unit))
        for unit in {self._image_units[image] for image in images}:
            self.units[unit]["cell_ids"].add(cell)

    def detect(self, instruments: Iterable[Instrument]) -> None:
        """Plan one detect unit per generate unit and instrument."""
        generated = [(key, unit) for key, unit in self.units.items() if unit["kind"] == "generate"]
        for instrument in instruments:
            described = dataclasses.asdict(dataclasses.replace(instrument, detector="", threshold=0.0))
            for key, unit in generated:
                fields = {"kind": "detect", "generate": key, "instrument": described}
                fields["code"] = identity.code_digest("detect")
                made = self._unit("detect", fields, (key,), unit["rows"], min(unit["cell_ids"]))
                self.units[made]["cell_ids"] |= unit["cell_ids"]

    def unit(self, kind: str, described: Mapping[str, Any], depends: Iterable[str], rows: int, cells: set[int]) -> None:
        """Plan one unit that `cells` need."""
        key = self._unit(kind, described, depends, rows, min(cells))
        self.units[key]["cell_ids"] |= cells

    def _unit(self, kind: str, described: Mapping[str, Any], depends: Iterable[str], rows: int, cell: int) -> str:
        key = identity.key(described)
        unit = self.units.setdefault(
            key, {"kind": kind, "depends": tuple(depends), "identity": described, "rows": rows, "cell_ids": set()}
        )
        unit["cell_ids"].add(cell)
        return key

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Cases and units as Arrow tables; raises on a collision of 63-bit picture identities."""
        units = [
            {
                "kind": unit["kind"],
                "key": key,
                "depends": list(unit["depends"]),
                "identity": identity.canonical(unit["identity"]),
                "rows": unit["rows"],
                "cell_ids": sorted(unit["cell_ids"]),
            }
            for key, unit in self.units.items()
        ]
        return pa.table(self.columns, schema=CASES_SCHEMA), pa.Table.from_pylist(units, schema=UNITS_SCHEMA)


def _identity_of(case: Mapping[str, Any]) -> dict[str, Any]:
    return {name: case.get(name) for name in ("seed", "prompt", "item")}


def _some(key: str | None) -> tuple[str, ...]:
    return (key,) if key else ()
