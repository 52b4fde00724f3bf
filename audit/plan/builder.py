"""Collect the cells, cases and units of a plan, with the content keys that say what has to be computed once only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from audit import erasers, guards, identity
from audit.attacks import registry
from audit.plan.document import CASES_SCHEMA, UNITS_SCHEMA, PlannedCell, chunks
from audit.plan.preflight.unusable import Unusable, reason
from audit.plan.resolved import Resolved
from audit.records import Cell, Instrument
from audit.spec.content import is_sexual
from audit.spec.scenarios import LatentScenario, Perturbation
from audit.spec.sections import Concept


@dataclasses.dataclass(frozen=True)
class Inversion:
    """How a cell's latents are made: by the model of an erase unit (None is the backbone), under a prompt ("" is null),
    from a reference image that may be disturbed first."""

    scenario: LatentScenario
    model: str | None
    prompt: str = ""
    perturbation: Perturbation | None = None

    def described(self, backbone: str) -> dict[str, Any]:
        """Identity fields that its invert units share."""
        scenario = self.scenario
        iterated = scenario.method == "fixed-point"
        return {
            "kind": "invert",
            "backbone": backbone,
            "model": self.model,
            "method": scenario.method,
            "steps": scenario.sampler.steps,
            "passes": scenario.fixed_point_passes if iterated else None,
            "tolerance": scenario.fixed_point_tolerance if iterated else None,
            "prompt": self.prompt,
            "perturbation": self.perturbation.model_dump(mode="json") if self.perturbation else None,
            "code": identity.code_digest("invert"),
        }


class Builder:
    """Collects cells, cases and units; pictures that several cells need are planned once."""

    def __init__(self, resolved: Resolved, unusable: Unusable) -> None:
        self.resolved, self.unusable = resolved, unusable
        self.spec, self.backbone, self.items = resolved.spec, resolved.backbone, resolved.pictures.items
        self.cells: list[PlannedCell] = []
        self.columns: dict[str, list[Any]] = {name: [] for name in CASES_SCHEMA.names}
        self.units: dict[str, dict[str, Any]] = {}
        self._image_units: dict[int, str] = {}
        self._attack_units: dict[tuple[str, str], str] = {}
        self._invert_units: dict[tuple[str, str], str] = {}

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
            **erasers.ERASERS.origin(eraser.method, "defences"),
        }
        return self._unit("erase", described, (), 1, len(self.cells))

    def _loaded(self, claim: str, checkpoint: str) -> dict[str, Any]:
        """Identity of a checkpoint: its content and what is claimed of it, never where it lies."""
        return {
            "kind": "erase",
            "backbone": self.backbone.sha256,
            "checkpoint": self.resolved.checkpoints[checkpoint].sha256,
            "claim": claim,
            "code": identity.code_digest("erase"),
        }

    def common(self, source: str, defence: str, concept: Concept, sampler: Mapping[str, Any] | None) -> dict[str, Any]:
        """Identity fields that all pictures of a cell share."""
        energies = self.resolved.energy_digests()
        resolved = [guards.resolve(guard, concept, energies) for guard in self.spec.defence(defence).guards]
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
        inversion: Inversion | None = None,
    ) -> None:
        """Plan one cell. Each case carries seed, prompt, item and item_uri as its source needs them.

        A case's `sampler` holds settings of its own over the cell's; such cases get units of their own.
        """
        index = len(self.cells)
        cases = [self._with_problem(case, inversion) for case in cases]
        gate = inversion.scenario.quality_gate if inversion else None
        self.cells.append(
            PlannedCell(
                dataclasses.replace(cell, cell_id=index, planned=len(cases)),
                sensitive=self.spec.is_sensitive(cell.subject)
                or self.spec.is_sensitive(cell.concept)
                or any(map(is_sexual, {case.get("prompt") or "" for case in cases})),
                gate_residual_max=gate.residual_max if gate else None,
                gate_psnr_min_db=gate.psnr_min_db if gate else None,
            )
        )
        inverts = self._inverts(inversion, cases, index) if inversion else [None] * len(cases)
        samplers = [{**common["sampler"], **case.get("sampler", {})} if common["sampler"] else None for case in cases]
        attacks = sorted({case["attack_key"] for case in cases if case.get("attack_key")})
        for unit in attacks:
            self.units[unit]["cell_ids"].add(index)
        images = [
            identity.int_key({**common, "sampler": sampler, **_identity_of(case), "invert": invert})
            for case, sampler, invert in zip(cases, samplers, inverts, strict=True)
        ]
        found = [*attacks, *sorted({i for i in inverts if i})]
        for sampler in _different(samplers):
            same = [image for image, own in zip(images, samplers, strict=True) if own == sampler]
            self._generate_units({**common, "sampler": sampler}, same, found, index)
        for number, (case, image, invert, sampler) in enumerate(zip(cases, images, inverts, samplers, strict=True)):
            row = {
                "cell_id": index,
                "case_no": number,
                "image_id": image,
                "unit_key": self._image_units[image],
                "invert_key": invert,
                "guidance": sampler["guidance"] if sampler else None,
                **case,
            }
            for name, column in self.columns.items():
                column.append(row.get(name))

    def _with_problem(self, case: Mapping[str, Any], inversion: Inversion | None) -> Mapping[str, Any]:
        """The case, which cannot be made when the prompt that it samples or inverts under cannot be read whole."""
        for prompt in filter(None, (case.get("prompt"), inversion.prompt if inversion else None)):
            if not case.get("problem") and prompt in self.unusable.prompts:
                return {**case, "problem": reason(self.unusable.prompts[prompt])}
        return case

    def attack(
        self,
        method: str,
        parameters: Mapping[str, Any],
        concept: Concept,
        items: Sequence[str],
        *,
        model: str | None = None,
        images: Sequence[str] = (),
        together: bool = False,
    ) -> dict[str, str]:
        """Item -> the attack unit that searches for it; an item searched for before keeps its unit.

        `items` name what the method finds, one row each; `parameters` are resolved ones. `model` is the erase unit that
        a white-box method sees, None the backbone. `images` are corpus items that the method learns from. Units hold
        `unit_size` items, or all of them where the method searches for them `together`.
        """
        described = {
            "kind": "attack",
            "backbone": self.backbone.sha256,
            "method": method,
            "version": registry.ATTACKS.find(method, "scenarios").version,
            **registry.ATTACKS.origin(method, "scenarios"),
            "parameters": dict(parameters),
            "concept": concept.model_dump(mode="json", exclude={"sensitive"}),
            "seed": self.spec.seed,
            "model": model,
            "images": list(images),
            "code": identity.code_digest("attack"),
        }
        shared = identity.key({**described, "together": list(items) if together else None})
        new = [item for item in dict.fromkeys(items) if (shared, item) not in self._attack_units]
        for chunk in chunks(new, max(len(new), 1) if together else self.spec.unit_size):
            fields = {**described, "items": list(chunk)}
            unit = self._unit("attack", fields, _some(model), len(chunk), len(self.cells))
            self._attack_units.update({(shared, item): unit for item in chunk})
        return {item: self._attack_units[shared, item] for item in items}

    def _inverts(self, inversion: Inversion, cases: Sequence[Mapping[str, Any]], cell: int) -> list[str | None]:
        """The invert unit of each case that can be made; items already inverted in the same way keep their unit."""
        described = inversion.described(self.backbone.sha256)
        shared = identity.key(described)
        items = dict.fromkeys(case["item"] for case in cases if not case.get("problem"))
        new = [item for item in items if (shared, item) not in self._invert_units]
        for chunk in chunks(new, self.spec.unit_size):
            unit = self._unit("invert", {**described, "items": list(chunk)}, _some(inversion.model), len(chunk), cell)
            self._invert_units.update({(shared, item): unit for item in chunk})
        keys = [None if case.get("problem") else self._invert_units[shared, case["item"]] for case in cases]
        for unit in {key for key in keys if key}:
            self.units[unit]["cell_ids"].add(cell)
        return keys

    def _generate_units(
        self, common: Mapping[str, Any], images: Sequence[int], found: Sequence[str], cell: int
    ) -> None:
        new = [image for image in dict.fromkeys(images) if image not in self._image_units]
        depends = (*_some(common["model"]), *found)
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
    described = {name: case.get(name) for name in ("seed", "prompt", "item", "attack_key", "attack_item")}
    if case.get("problem"):  # there is no picture: what cannot be made is told apart by its row
        described |= {name: case.get(name) for name in ("prompt_key", "problem")}
    return described


def _different(samplers: Iterable[Mapping[str, Any] | None]) -> list[Mapping[str, Any] | None]:
    """Each of the sampler settings once, in the order of their first case."""
    return list({identity.canonical(sampler): sampler for sampler in samplers}.values())


def _some(key: str | None) -> tuple[str, ...]:
    return (key,) if key else ()
