"""Collect the cells, cases and units of a plan; content keys make each unit and each picture appear once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from audit import erasers, guards, identity
from audit.attacks import registry
from audit.errors import SpecError
from audit.plan.document import PlannedCell, chunks
from audit.plan.filter_units import Filters, numbered
from audit.plan.identities import (
    AttackIdentity,
    CheckpointIdentity,
    DetectIdentity,
    EraseIdentity,
    GenerateIdentity,
    PictureSampler,
    Source,
    as_json,
)
from audit.plan.inversions import Inversion
from audit.plan.personalisations import Edited
from audit.plan.picture_ids import picture_ids
from audit.plan.planned_cases import PlannedCases
from audit.plan.planned_units import PlannedUnits
from audit.plan.preflight.unusable import Unusable, reason
from audit.plan.resolved import Resolved
from audit.plan.stored_tables import StoredTable
from audit.records import Attempt, Cell, Instrument, ResolvedGuard
from audit.spec.content import is_sexual
from audit.spec.sampler import Sampler
from audit.spec.sections import Concept


class Builder:
    """A collection of cells, cases and units in which pictures that several cells need are planned once."""

    def __init__(self, resolved: Resolved, unusable: Unusable) -> None:
        self.resolved, self.unusable = resolved, unusable
        self.spec, self.backbone, self.items = resolved.spec, resolved.backbone, resolved.pictures.items
        self.cells: list[PlannedCell] = []
        self.cases, self.units = PlannedCases(), PlannedUnits()
        self.image_units: dict[int, str] = {}  # picture -> the generate unit that makes it
        self._filters = Filters(resolved, self.units)
        self._models: dict[tuple[str, str], str | None] = {}  # by defence and concept, as guards
        self._guards: dict[tuple[str, str], tuple[ResolvedGuard, ...]] = {}
        self._drawn: dict[str, Sequence[Attempt]] = {}  # by concept
        self._readable: dict[str, Sequence[str]] = {}
        self._attack_units: dict[tuple[str, str], str] = {}
        self._invert_units: dict[tuple[str, str], str] = {}

    def model(self, defence: str, concept: Concept) -> str | None:
        """Return the key of the erase unit that makes the defence's weights for `concept`; None is the backbone itself."""
        if (defence, concept.name) not in self._models:
            self._models[defence, concept.name] = self._erased(defence, concept)
        key = self._models[defence, concept.name]
        self.need(key)
        return key

    def need(self, key: str | None) -> None:
        """Let the cell that is planned next need a unit, if it is one."""
        if key is not None:
            self.units[key].need(self.next_cell)

    def erased_again(self, defence: str, concept: Concept, edited: Edited) -> str:
        """Return the key of the erase unit by which the defence's eraser erases `concept` from a model that was edited.

        Raises `SpecError` for a defence whose eraser cannot do so.
        """
        key = self._erased(defence, concept, edited)
        assert key is not None  # the spec's rules ask for an eraser
        return key

    def _erased(self, defence: str, concept: Concept, edited: Edited | None = None) -> str | None:
        eraser = self.spec.defence(defence).eraser
        if eraser is None:
            return None
        code = identity.code_digest("erase")
        if eraser.checkpoint is not None:
            digest = self.resolved.checkpoints[eraser.checkpoint].sha256
            return self.units.add(CheckpointIdentity(self.backbone.sha256, digest, eraser.method, code), (), 1, ())
        parameters = erasers.resolve_parameters(eraser, self.backbone.name)
        plugin = erasers.ERASERS.origin(eraser.method, "defences").get("plugin")
        if edited is not None and not erasers.ERASERS.find(eraser.method, "defences").again:
            raise SpecError(
                f"{eraser.method} cannot erase a model again that it has erased before",
                where=f"defences.{defence}",
                next_step="audit cycles of another eraser, or leave the scenario out",
            )
        erased = EraseIdentity(self.backbone.sha256, eraser.method, parameters, concept, code, plugin, edited)
        return self.units.add(erased, (edited.model, edited.lora.attack) if edited else (), 1, ())

    def drawn(self, concept: str) -> Sequence[Attempt]:
        """Return an attempt for each reference image of a concept, in the order in which cells take them.

        They are drawn at random from the corpus, by the items' own seeds: the first by name would be one date, camera or
        subject. Another corpus order or size leaves a picture's seed as it was.
        """
        if concept not in self._drawn:
            attempts = [
                Attempt(
                    self._place(i.item) % 2**31, None, i.item, i.uri,
                    region=i.region, region_uri=i.region_uri, attributes=i.attributes,
                )
                for i in self.items.get(concept, ())
            ]  # fmt: skip
            self._drawn[concept] = sorted(attempts, key=lambda attempt: attempt.seed)
        return self._drawn[concept]

    def readable(self, concept: str) -> Sequence[str]:
        """Return the reference images of a concept that can be read, in the order in which attacks learn from them."""
        if concept not in self._readable:
            items = [i.item for i in self.items.get(concept, ()) if not i.item.startswith("unreadable-")]
            self._readable[concept] = sorted(items, key=self._place)
        return self._readable[concept]

    def _place(self, item: str) -> int:
        return identity.int_key({"seed": self.spec.seed, "item": item})

    @property
    def next_cell(self) -> int:
        """Return the number of the cell that is planned next."""
        return len(self.cells)

    def common(self, source: Source, defence: str, concept: Concept, sampler: Sampler | None) -> GenerateIdentity:
        """Return the common part of the identities of a cell's pictures."""
        return GenerateIdentity(
            source=source,
            backbone=self.backbone.sha256,
            model=self.model(defence, concept) if sampler else None,
            guards=self._resolved_guards(defence, concept) if sampler else (),
            sampler=PictureSampler(**sampler.model_dump(exclude={"distilled"})) if sampler else None,
            code=identity.code_digest("generate"),
        )

    def _resolved_guards(self, defence: str, concept: Concept) -> tuple[ResolvedGuard, ...]:
        if (defence, concept.name) not in self._guards:
            energies = self.resolved.energy_digests()
            listed = guards.sampling(self.spec.defence(defence).guards)
            resolved = [ResolvedGuard(**guards.resolve(guard, concept, energies)) for guard in listed]
            self._guards[defence, concept.name] = tuple(resolved)
        return self._guards[defence, concept.name]

    def add(
        self, cell: Cell, common: GenerateIdentity, attempts: Sequence[Attempt], inversion: Inversion | None = None
    ) -> None:
        """Plan one cell with a case for each attempt. Cases whose sampler differs from the cell's get units of their own."""
        index = self.next_cell
        if self.unusable.prompts:
            attempts = [self._with_problem(attempt, inversion) for attempt in attempts]
        gate = inversion.scenario.quality_gate if inversion else None
        filters = self._filters.of(cell)
        self.cells.append(
            PlannedCell(
                dataclasses.replace(cell, cell_id=index, planned=len(attempts), filters=numbered(filters)),
                sensitive=self.spec.is_sensitive(cell.subject)
                or self.spec.is_sensitive(cell.concept)
                or any(map(_is_sexual, {attempt.prompt or "" for attempt in attempts})),
                gate_residual_max=gate.residual_max if gate else None,
                gate_psnr_min_db=gate.psnr_min_db if gate else None,
            )
        )
        inverts = self._inverts(inversion, attempts, index) if inversion else [None] * len(attempts)
        attacks = sorted({attempt.attack_key for attempt in attempts if attempt.attack_key})
        for unit in attacks:
            self.units[unit].need(index)
        depends = (*_some(common.model), *attacks, *sorted({key for key in inverts if key}))
        images, guidance = [0] * len(attempts), list[float | None]([None]) * len(attempts)
        for own, same in _by_sampler(common, attempts):
            ids = picture_ids(own, [attempts[n] for n in same], [inverts[n] for n in same])
            self._generate_units(own, ids, depends, index)
            for number, image in zip(same, ids, strict=True):
                images[number], guidance[number] = image, own.sampler.guidance if own.sampler else None
        units = [self.image_units[image] for image in images]
        self._filters.plan(filters, dict.fromkeys(units), attacks, index)
        self.cases.add(attempts, images, units, inverts, guidance)

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
            unit = self.units.add(of_chunk, _some(model), len(chunk), [self.next_cell])
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
            unit = self.units.add(of_chunk, _some(inversion.model), len(chunk), [cell])
            self._invert_units.update({(shared, item): unit for item in chunk})
        keys = [self._invert_units[shared, item] if item else None for item in needed]
        for unit in {key for key in keys if key}:
            self.units[unit].need(cell)
        return keys

    def _generate_units(
        self, common: GenerateIdentity, images: Sequence[int], depends: tuple[str, ...], cell: int
    ) -> None:
        new = [image for image in dict.fromkeys(images) if image not in self.image_units]
        for chunk in chunks(new, self.spec.unit_size):
            unit = self.units.add(dataclasses.replace(common, images=tuple(chunk)), depends, len(chunk), [cell])
            self.image_units.update(dict.fromkeys(chunk, unit))
        for unit in {self.image_units[image] for image in images}:
            self.units[unit].need(cell)

    def detect(self, instruments: Iterable[Instrument]) -> None:
        """Plan one detect unit per generate unit and instrument."""
        code = identity.code_digest("detect")
        generated = self.units.of_kind("generate")
        for instrument in instruments:
            plain = dataclasses.replace(instrument, detector="", threshold=0.0)
            for key, unit in generated:
                self.units.add(DetectIdentity(key, plain, code), (key,), unit.rows, unit.cells)

    def tables(self) -> tuple[StoredTable, StoredTable]:
        """Return cases and units as tables. Nothing can be planned after that."""
        return self.cases.table(), self.units.table()


_is_sexual = functools.lru_cache(maxsize=4096)(is_sexual)  # cells of other defences have the same prompts


def _by_sampler(
    common: GenerateIdentity, attempts: Sequence[Attempt]
) -> Iterator[tuple[GenerateIdentity, Sequence[int]]]:
    """Yield each sampler's own part of the pictures' identities, with the numbers of the attempts that it samples."""
    groups: dict[PictureSampler | None, list[int]] = {}
    known: dict[tuple[float | None, tuple[int, int] | None], list[int]] = {}
    for number, attempt in enumerate(attempts):
        settings = attempt.guidance, attempt.size
        if settings not in known:
            known[settings] = groups.setdefault(_sampler_of(common, attempt), [])
        known[settings].append(number)
    for sampler, numbers in groups.items():
        yield dataclasses.replace(common, sampler=sampler), numbers


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
