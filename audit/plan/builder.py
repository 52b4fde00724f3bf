"""Collect the cells, cases and units of a plan; content keys make each unit and each picture appear once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
from pydantic import JsonValue

from audit import erasers, guards, identity
from audit.attacks import registry
from audit.plan.document import CASES_SCHEMA, UNITS_SCHEMA, PlannedCell, chunks
from audit.plan.identities import (
    AttackIdentity,
    CheckpointIdentity,
    DetectIdentity,
    EraseIdentity,
    GenerateIdentity,
    Identity,
    InvertIdentity,
    PictureSampler,
    Source,
    as_json,
    picture_ids,
)
from audit.plan.preflight.unusable import Unusable, reason
from audit.plan.resolved import Resolved
from audit.records import Attempt, Case, Cell, Instrument, ResolvedGuard
from audit.spec.content import is_sexual
from audit.spec.perturbation import Perturbation
from audit.spec.sampler import Sampler
from audit.spec.scenarios import LatentScenario
from audit.spec.sections import Concept


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The settings of a cell's inversion: the model of an erase unit (None is the backbone), a prompt ("" is the null
    prompt), and the disturbance that is applied to each reference image first, if any.
    """

    scenario: LatentScenario
    model: str | None
    prompt: str = ""
    perturbation: Perturbation | None = None

    def identity(self, backbone: str) -> InvertIdentity:
        """Return the common part of its invert units' identities, without any items."""
        scenario = self.scenario
        iterated = scenario.method == "fixed-point"
        return InvertIdentity(
            backbone=backbone,
            model=self.model,
            method=scenario.method,
            steps=scenario.sampler.steps,
            passes=scenario.fixed_point_passes if iterated else None,
            tolerance=scenario.fixed_point_tolerance if iterated else None,
            prompt=self.prompt,
            perturbation=self.perturbation,
            code=identity.code_digest("invert"),
        )


@dataclasses.dataclass
class PlannedUnit:
    """A unit while a plan is collected: the cells that need it are added as they are planned."""

    identity: Identity
    depends: tuple[str, ...]
    rows: int
    cells: set[int] = dataclasses.field(default_factory=set)


class Builder:
    """A collection of cells, cases and units in which pictures that several cells need are planned once."""

    def __init__(self, resolved: Resolved, unusable: Unusable) -> None:
        self.resolved, self.unusable = resolved, unusable
        self.spec, self.backbone, self.items = resolved.spec, resolved.backbone, resolved.pictures.items
        self.cells: list[PlannedCell] = []
        self.cases: list[Case] = []
        self.units: dict[str, PlannedUnit] = {}
        self._image_units: dict[int, str] = {}
        self._attack_units: dict[tuple[str, str], str] = {}
        self._invert_units: dict[tuple[str, str], str] = {}

    def model(self, defence: str, concept: Concept) -> str | None:
        """Return the key of the erase unit that makes the defence's weights for `concept`; None is the backbone itself."""
        eraser = self.spec.defence(defence).eraser
        if eraser is None:
            return None
        code = identity.code_digest("erase")
        if eraser.checkpoint is not None:
            digest = self.resolved.checkpoints[eraser.checkpoint].sha256
            return self.unit(
                CheckpointIdentity(self.backbone.sha256, digest, eraser.method, code), (), 1, {self.next_cell}
            )
        parameters = erasers.resolve_parameters(eraser, self.backbone.name)
        plugin = erasers.ERASERS.origin(eraser.method, "defences").get("plugin")
        erased = EraseIdentity(self.backbone.sha256, eraser.method, parameters, concept, code, plugin)
        return self.unit(erased, (), 1, {self.next_cell})

    @property
    def next_cell(self) -> int:
        """Return the number of the cell that is planned next."""
        return len(self.cells)

    def common(self, source: Source, defence: str, concept: Concept, sampler: Sampler | None) -> GenerateIdentity:
        """Return the common part of the identities of a cell's pictures."""
        energies = self.resolved.energy_digests()
        listed = self.spec.defence(defence).guards
        resolved = [ResolvedGuard(**guards.resolve(guard, concept, energies)) for guard in listed]
        return GenerateIdentity(
            source=source,
            backbone=self.backbone.sha256,
            model=self.model(defence, concept) if sampler else None,
            guards=tuple(resolved) if sampler else (),
            sampler=PictureSampler(**sampler.model_dump()) if sampler else None,
            code=identity.code_digest("generate"),
        )

    def add(
        self, cell: Cell, common: GenerateIdentity, attempts: Sequence[Attempt], inversion: Inversion | None = None
    ) -> None:
        """Plan one cell with a case for each attempt. Cases whose sampler differs from the cell's get units of their own."""
        index = self.next_cell
        attempts = [self._with_problem(attempt, inversion) for attempt in attempts]
        gate = inversion.scenario.quality_gate if inversion else None
        self.cells.append(
            PlannedCell(
                dataclasses.replace(cell, cell_id=index, planned=len(attempts)),
                sensitive=self.spec.is_sensitive(cell.subject)
                or self.spec.is_sensitive(cell.concept)
                or any(map(is_sexual, {attempt.prompt or "" for attempt in attempts})),
                gate_residual_max=gate.residual_max if gate else None,
                gate_psnr_min_db=gate.psnr_min_db if gate else None,
            )
        )
        inverts = self._inverts(inversion, attempts, index) if inversion else [None] * len(attempts)
        attacks = sorted({attempt.attack_key for attempt in attempts if attempt.attack_key})
        for unit in attacks:
            self.units[unit].cells.add(index)
        samplers = [_sampler_of(common, attempt) for attempt in attempts]
        depends = (*_some(common.model), *attacks, *sorted({key for key in inverts if key}))
        images: dict[int, int] = {}  # by case
        for sampler in dict.fromkeys(samplers):
            own = dataclasses.replace(common, sampler=sampler)
            same = [number for number, other in enumerate(samplers) if other == sampler]
            images |= zip(same, picture_ids(own, [(attempts[n], inverts[n]) for n in same]), strict=True)
            self._generate_units(own, [images[n] for n in same], depends, index)
        for number, (attempt, invert, sampler) in enumerate(zip(attempts, inverts, samplers, strict=True)):
            self.cases.append(
                Case(
                    cell_id=index,
                    case_no=number,
                    image_id=images[number],
                    unit_key=self._image_units[images[number]],
                    seed=attempt.seed,
                    prompt=attempt.prompt,
                    item=attempt.item,
                    item_uri=attempt.item_uri,
                    invert_key=invert,
                    prompt_key=attempt.prompt_key,
                    guidance=sampler.guidance if sampler else None,
                    problem=attempt.problem,
                    attack_key=attempt.attack_key,
                    attack_item=attempt.attack_item,
                    subject=attempt.subject,
                    region=attempt.region,
                    region_uri=attempt.region_uri,
                )
            )

    def _with_problem(self, attempt: Attempt, inversion: Inversion | None) -> Attempt:
        """Return the attempt, which cannot be made when the prompt that it samples or inverts under cannot be read whole."""
        for prompt in filter(None, (attempt.prompt, inversion.prompt if inversion else None)):
            if not attempt.problem and prompt in self.unusable.prompts:
                return dataclasses.replace(attempt, problem=reason(self.unusable.prompts[prompt]))
        return attempt

    def attack(
        self,
        method: str,
        parameters: Mapping[str, JsonValue],
        concept: Concept,
        items: Sequence[str],
        *,
        model: str | None = None,
        images: Sequence[str] = (),
        together: bool = False,
    ) -> dict[str, str]:
        """Return for each item the attack unit that searches for it; an item searched for before keeps its unit.

        `items` name what the method finds, one row each; `parameters` are resolved ones. `model` is the erase unit that
        a white-box method sees, None the backbone. `images` are corpus items that the method learns from. Units hold
        `unit_size` items, or all of them where the method searches for them `together`.
        """
        search = AttackIdentity(
            backbone=self.backbone.sha256,
            method=method,
            version=registry.ATTACKS.find(method, "scenarios").version,
            parameters=parameters,
            concept=concept,
            seed=self.spec.seed,
            model=model,
            images=tuple(images),
            code=identity.code_digest("attack"),
            plugin=registry.ATTACKS.origin(method, "scenarios").get("plugin"),
        )
        shared = identity.key({**as_json(search), "together": list(items) if together else None})
        new = [item for item in dict.fromkeys(items) if (shared, item) not in self._attack_units]
        for chunk in chunks(new, max(len(new), 1) if together else self.spec.unit_size):
            of_chunk = dataclasses.replace(search, items=tuple(chunk))
            unit = self.unit(of_chunk, _some(model), len(chunk), {self.next_cell})
            self._attack_units.update({(shared, item): unit for item in chunk})
        return {item: self._attack_units[shared, item] for item in items}

    def _inverts(self, inversion: Inversion, attempts: Sequence[Attempt], cell: int) -> list[str | None]:
        """Return the invert unit of each case that can be made; items already inverted in the same way keep their unit."""
        described = inversion.identity(self.backbone.sha256)
        shared = identity.key(as_json(described))
        needed = [None if attempt.problem else attempt.item for attempt in attempts]
        new = [item for item in dict.fromkeys(needed) if item and (shared, item) not in self._invert_units]
        for chunk in chunks(new, self.spec.unit_size):
            of_chunk = dataclasses.replace(described, items=tuple(chunk))
            unit = self.unit(of_chunk, _some(inversion.model), len(chunk), {cell})
            self._invert_units.update({(shared, item): unit for item in chunk})
        keys = [self._invert_units[shared, item] if item else None for item in needed]
        for unit in {key for key in keys if key}:
            self.units[unit].cells.add(cell)
        return keys

    def _generate_units(
        self, common: GenerateIdentity, images: Sequence[int], depends: tuple[str, ...], cell: int
    ) -> None:
        new = [image for image in dict.fromkeys(images) if image not in self._image_units]
        for chunk in chunks(new, self.spec.unit_size):
            unit = self.unit(dataclasses.replace(common, images=tuple(chunk)), depends, len(chunk), {cell})
            self._image_units.update(dict.fromkeys(chunk, unit))
        for unit in {self._image_units[image] for image in images}:
            self.units[unit].cells.add(cell)

    def detect(self, instruments: Iterable[Instrument]) -> None:
        """Plan one detect unit per generate unit and instrument."""
        code = identity.code_digest("detect")
        generated = [(key, unit) for key, unit in self.units.items() if isinstance(unit.identity, GenerateIdentity)]
        for instrument in instruments:
            plain = dataclasses.replace(instrument, detector="", threshold=0.0)
            for key, unit in generated:
                self.unit(DetectIdentity(key, plain, code), (key,), unit.rows, unit.cells)

    def unit(self, described: Identity, depends: Iterable[str], rows: int, cells: set[int]) -> str:
        """Plan one unit that `cells` need, or add them to the same unit planned before, and return its key."""
        key = identity.key(as_json(described))
        self.units.setdefault(key, PlannedUnit(described, tuple(depends), rows)).cells.update(cells)
        return key

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return cases and units as Arrow tables."""
        cases = {name: [getattr(case, name) for case in self.cases] for name in CASES_SCHEMA.names}
        units = [
            {
                "kind": unit.identity.kind,
                "key": key,
                "depends": unit.depends,
                "identity": identity.canonical(as_json(unit.identity)),
                "rows": unit.rows,
                "cell_ids": sorted(unit.cells),
            }
            for key, unit in self.units.items()
        ]
        return pa.table(cases, schema=CASES_SCHEMA), pa.Table.from_pylist(units, schema=UNITS_SCHEMA)


def _sampler_of(common: GenerateIdentity, attempt: Attempt) -> PictureSampler | None:
    """Return the settings that one case is sampled with: the cell's, and over them its own."""
    if common.sampler is None:
        return None
    own: dict[str, float | int] = {} if attempt.guidance is None else {"guidance": attempt.guidance}
    if attempt.size is not None:
        own |= dict(zip(("width", "height"), attempt.size, strict=True))
    return common.sampler.model_copy(update=own) if own else common.sampler


def _some(key: str | None) -> tuple[str, ...]:
    return (key,) if key else ()
